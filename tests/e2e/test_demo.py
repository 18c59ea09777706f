"""`make demo` does what the README says of it."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 300


def shipped():
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((ROOT / "saved_models").glob("model_saved.*"))
    }


@pytest.mark.full
@pytest.mark.alone
@pytest.mark.timeout(2 * LIMIT_S)
def test_the_demo_goes_from_drawn_xrays_to_an_answer_in_under_five_minutes():
    before = shipped()
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, ROOT / "examples/demo.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * LIMIT_S,
    )
    took = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout[done.stdout.index("{") : done.stdout.index("}") + 1])
    assert answer["label"] == "severe" and sum(answer["probabilities"]) == pytest.approx(
        1, abs=1e-5
    )
    assert "Equal to PyTorch: yes" in done.stdout
    assert "The service is stopped" in done.stdout
    record = json.loads((ROOT / "saved_models/demo.json").read_text())
    assert record["training"]["metrics"]["test"]["accuracy"] > 0.85
    assert shipped() == before, "the demo never touches the shipped model"
    assert took < LIMIT_S
