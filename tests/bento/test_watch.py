"""Workers that give no sign of life are replaced, and no others."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from attacker import QUICK, await_whole, freeze_until_replaced

from bento.watch import LOOKS, START_LOOKS, Watch
from bento.worker import counters
from bento.worker.counters import Metrics


@pytest.fixture
def stopped():
    """A process that is stopped; it stays there until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    process.send_signal(signal.SIGSTOP)
    yield process
    process.kill()
    process.wait()


def look(watch, times):
    for _ in range(times):
        watch.look()


def test_worker_that_stops_giving_signs_of_life_is_killed_and_no_sooner(stopped, capfd):
    beats = np.zeros(3)
    watch = Watch(lambda: [(stopped.pid, 1)], beats)
    watch.look()
    beats[1] = 7.0
    look(watch, LOOKS + 1)
    beats[1] = 8.0
    look(watch, LOOKS + 1)
    assert not capfd.readouterr().err and stopped.poll() is None
    watch.look()
    assert stopped.wait(30) == -signal.SIGKILL
    assert f"worker {stopped.pid} gave no sign of life" in capfd.readouterr().err
    # It is gone, and the arbiter has not noticed yet.
    watch.look()


def test_worker_that_never_gave_a_sign_of_life_is_given_the_time_to_start(stopped, capfd):
    beats = np.full(1, 5.0)
    watch = Watch(lambda: [(stopped.pid, 0)], beats)
    look(watch, START_LOOKS)
    assert not capfd.readouterr().err and stopped.poll() is None
    watch.look()
    assert stopped.wait(30) == -signal.SIGKILL


def test_parent_reads_the_signs_of_life_of_every_worker(monkeypatch):
    ((variable, place),) = shared = tuple(counters.share().items())
    monkeypatch.setenv(variable, place)
    beats = counters.beats(dict(shared))
    assert not beats.any()
    workers = [Metrics(("a", "b"), ("x",), number, 6) for number in range(4)]
    assert list(beats > 0) == [True] * 4 + [False] * (len(beats) - 4)
    before = beats.copy()
    workers[2].alive()
    assert list(np.flatnonzero(beats != before)) == [2]
    os.close(int(place))


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="no /proc to look into")
def test_frozen_worker_is_replaced_while_the_other_answers(
    served, serving, processes_below, encoded, xrays, tmp_path
):
    (tmp_path / "sitecustomize.py").write_text(QUICK)
    environment = {"PYTHONPATH": str(tmp_path), "TOOLKIT_WORKERS": "2"}
    with serving(served, tmp_path, **environment) as (process, url, log):
        await_whole(url)
        workers = processes_below(process.pid)[1:]
        frozen, png = workers[-1], encoded(xrays[0])
        freeze_until_replaced(frozen, url, png, lambda: processes_below(process.pid))
        assert f"worker {frozen} gave no sign of life" in log.read_text()
        assert set(workers) - {frozen} <= set(processes_below(process.pid))


# Each look is a line in a file; the model cannot be opened before there are many.
SLOW = """
import bento.watch, pathlib, time
bento.watch.LOOKS = 2
look, looks = bento.watch.Watch.look, pathlib.Path("{looks}")

def look_and_tell(watch):
    with looks.open("a") as file:
        file.write("looked ")
    look(watch)

bento.watch.Watch.look = look_and_tell
import bento.worker.assembly
opened = bento.worker.assembly.open_proven

def open_slowly(*arguments):
    while not looks.exists() or looks.read_text().count("looked") < 12:
        time.sleep(0.1)
    return opened(*arguments)

bento.worker.assembly.open_proven = open_slowly
"""


@pytest.mark.full
def test_worker_whose_model_takes_long_to_open_is_left_alone(served, serving, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SLOW.format(looks=tmp_path / "looks"))
    environment = {"PYTHONPATH": str(tmp_path), "TOOLKIT_WORKERS": "1"}
    with serving(served, tmp_path, **environment) as (_, _, log):
        assert "no sign of life" not in log.read_text()
