"""`benchmarks/gpu.py`, with the CPU in the card's place."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc to look into")


def measured(*options, code=0):
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--cpu", "--minutes", "0.05", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code, done.stdout + done.stderr
    table, _, content = done.stdout.partition("\n{\n")
    return table, json.loads("{" + content)


@pytest.mark.full
@pytest.mark.alone
@pytest.mark.timeout(400)
def test_one_command_measures_all_that_is_promised_and_says_what_held():
    table, content = measured()
    steps = {each["name"]: each for each in content["steps"]}
    for name in (
        "engine: logits against the CPU",
        "engine: edge maps unlike the CPU's",
        "service: wrong answers",
        "training: default, resumed",
    ):
        assert steps[name]["held"] is True and name in table
    for name in ("service: ready", "service: one client, p50"):
        assert steps[name]["figure"] > 0 and steps[name]["held"] is None and name in table
    assert steps["predict: against decoding alone"]["held"] is None
    assert {"card", "date", "versions", "cores"} <= set(content)
    assert "onnxruntime" in content["versions"]


@pytest.fixture
def steps(monkeypatch):
    """The module of the steps."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("steps")


def test_step_that_takes_too_long_is_ended_and_not_held(steps):
    first = json.dumps({"name": "a", "figure": 1.0, "unit": "s"})
    code = f"import time; print({first!r}, flush=True); time.sleep(60)"
    found = list(steps.heard("group", [sys.executable, "-c", code], 3))
    assert [each.figure for each in found] == [1.0, None]
    assert found[1].held is False and "over 3 s" in found[1].reason
    (broken,) = steps.heard("group", [sys.executable, "-c", "raise SystemExit(3)"], 30)
    assert broken.held is False and "exit code 3" in broken.reason


def test_promise_that_is_not_kept_is_seen(steps):
    at = steps.Steps()
    assert at.step("a", 1.0, "s", steps.at_most(2)).held is True
    assert at.step("a", 3.0, "s", steps.at_most(2)).held is False
    assert at.step("a", float("nan"), "s", steps.at_least(2)).held is False
    assert at.step("a", 3.0, "s").held is None
