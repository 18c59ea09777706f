"""What the OpenAPI document says, held against the live service by schemathesis."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.files import sha256

FOLDER = Path(__file__).with_name("schemathesis")
TOKEN = "a-token"


@pytest.mark.full
def test_service_answers_as_its_document_says(served, serving, tmp_path):
    version = sha256(served.path("pipeline"))[:12]
    with serving(served, tmp_path, TOOLKIT_WORKERS="1", TOOLKIT_TOKEN=TOKEN) as (_, url, log):
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                *("--config-file", FOLDER / "schemathesis.toml", "run", f"{url}/docs.json"),
                *("--max-examples", "20", "--generation-deterministic", "--continue-on-failure"),
                *("--request-timeout", "60", "--header", f"Authorization: Bearer {TOKEN}"),
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(FOLDER), "SERVED_VERSION": version},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
        assert "Selected: 19/19\n" in done.stdout and "Tested: 19\n" in done.stdout
        assert "Traceback" not in log.read_text()
