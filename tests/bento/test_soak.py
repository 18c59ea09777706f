"""Minutes of good and bad traffic; `benchmarks/soak.py` by itself does half an hour."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).resolve().parents[2] / "benchmarks/soak.py"
MINUTES = os.environ.get("TOOLKIT_SOAK_MINUTES", "2.5")


@pytest.mark.full
@pytest.mark.alone
@pytest.mark.timeout(60 * float(MINUTES) + 240)
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc to look into")
def test_good_and_bad_traffic_leaves_the_memory_where_it_was():
    command = [sys.executable, SOAK, "--minutes", MINUTES, "--settle", "90", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
