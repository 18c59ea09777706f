"""Processes killed and frozen at random moments: nothing is lost, repeated or wrong."""

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress

import httpx
import pytest
from attacker import QUICK, RAW
from command_line import begin

from toolkit.files import sha256
from toolkit.xray.synthetic import generate


@pytest.fixture
def site(tmp_path):
    """Return a function: the environment of commands in which some Python code ran first."""

    def environment(code):
        folder = tmp_path / "site"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(code)
        return {"PYTHONPATH": str(folder)}

    return environment


def await_that(condition, what="it"):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


class Asking(threading.Thread):
    """Asks a service for the same X-rays, over and over; counts what comes of it."""

    def __init__(self, url, files):
        super().__init__()
        self.url, self.files = url, files
        self.expected = [self.ask(each) for each in files]
        self.outcomes, self.ended = Counter(), threading.Event()

    def ask(self, content):
        return httpx.post(f"{self.url}/predict", content=content, headers=RAW, timeout=60)

    def run(self):
        while not self.ended.is_set():
            for content, right in zip(self.files, self.expected, strict=True):
                try:
                    answer = self.ask(content)
                except httpx.TransportError:
                    self.outcomes["cut off"] += 1
                    continue
                same = answer.status_code == 200 and answer.json() == right.json()
                self.outcomes["right" if same else answer.text] += 1


@pytest.mark.timeout(600)
def test_answers_are_right_whichever_workers_are_killed_or_frozen_at_any_moment(
    small_files, serving, processes_below, site, pngs, tmp_path
):
    chance = random.Random(20)
    environment = site(QUICK)
    with serving(small_files, tmp_path, TOOLKIT_WORKERS="2", **environment) as (process, url, log):

        def whole():
            try:
                return httpx.get(f"{url}/readyz", timeout=10).json().get("whole")
            except httpx.HTTPError:
                return False

        await_that(whole)
        asking = [Asking(url, pngs[:4]), Asking(url, pngs[4:])]
        for each in asking:
            each.start()
        try:
            for kind in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
                goal = sum(each.outcomes["right"] for each in asking) + chance.randrange(1, 60)
                await_that(lambda: sum(each.outcomes["right"] for each in asking) >= goal)  # noqa: B023
                victim = chance.choice(processes_below(process.pid)[1:])
                os.kill(victim, kind)
                await_that(lambda: victim not in processes_below(process.pid))  # noqa: B023
                await_that(whole, log.read_text())
        finally:
            for each in asking:
                each.ended.set()
            for each in asking:
                each.join()
        found = asking[0].outcomes + asking[1].outcomes
        assert set(found) <= {"right", "cut off"}, found
        # A connection waits on a frozen worker for as long as it is frozen, two for each kill.
        assert found["cut off"] <= 8 and found["right"] > 60, found
        counted = sum(
            float(line.rpartition(" ")[2])
            for line in httpx.get(f"{url}/metrics").text.splitlines()
            if line.startswith("toolkit_predictions_total{")
        )
        asked = found["right"] + len(pngs)
        assert asked <= counted <= asked + found["cut off"]
    assert "Traceback" not in log.read_text()


KILLS = 6


def ends_before_its_kill(process, chance, longest, progress):
    """Kill a command with all its processes at a random moment; return whether it ended before.

    Every other time it gets ahead before: a busy machine may take all the time for the start.
    """
    before = progress()
    if chance.random() < 0.5:
        await_that(lambda: progress() != before or process.poll() is not None)
        longest /= 4
    try:
        said = process.communicate(timeout=chance.uniform(0, longest))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return False
    assert process.returncode == 0, said
    return True


def names_in(folder):
    """Names in a folder; none if it is not there."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def run_to_its_end(process):
    """Wait for a command; return the seconds that it took."""
    start = time.monotonic()
    said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return time.monotonic() - start


@pytest.mark.timeout(600)
def test_batch_that_is_killed_at_random_moments_has_the_rows_of_an_unbroken_one(
    small_files, site, pngs, tmp_path
):
    import pyarrow.parquet

    for number in range(600):
        path = tmp_path / "xrays" / f"{number % 7}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pngs[number % len(pngs)] if number % 50 else b"no X-ray")
    small = "import toolkit.batch.paths, toolkit.batch.run\n"
    small += "toolkit.batch.paths.SHARD = toolkit.batch.run.SHARD = 16\n"
    environment, chance = site(small), random.Random(20)
    command = ("predict", small_files.name, "xrays", "--models", small_files.folder, "--out")
    longest = run_to_its_end(begin(*command, "whole.parquet", cwd=tmp_path, **environment))
    parts, broken = tmp_path / "broken.parquet.parts", tmp_path / "broken.parquet"

    def again():
        return begin(*command, broken.name, cwd=tmp_path, **environment)

    def progress():
        return len([each for each in names_in(parts) if each[0] == "0"])

    # One that is killed when there is nothing left to do is at its end, too.
    if not any(
        ends_before_its_kill(again(), chance, longest, progress)
        or (broken.exists() and not parts.exists())
        for _ in range(KILLS)
    ):
        run_to_its_end(again())
    expected, found = (
        pyarrow.parquet.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "broken")
    )
    assert found.equals(expected, check_metadata=True) and len(found) == 600
    assert not parts.exists()


@pytest.mark.timeout(600)
def test_training_that_is_killed_at_random_moments_comes_to_the_same_weights(tmp_path):
    from toolkit.xray.pictures import encode

    for part, count in (("train", 24), ("val", 8)):
        for number, each in enumerate(generate(count, seed=len(part))):
            path = tmp_path / "data" / part / f"{each.grade}" / f"{9000000 + number}L.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(each.pixels))
    chance = random.Random(20)
    options = ("--data", "data", "--epochs", 8, "--layer-size", 4, "--batch-size", 8)

    def command(name, *more):
        return ("train", *options, "--name", name, "--models", "m", "--logs", "l", *more)

    longest = run_to_its_end(begin(*command("whole"), cwd=tmp_path))
    state, models = tmp_path / "m" / "broken.resume.pt", tmp_path / "m"

    def again():
        more = ("--resume",) if state.exists() else ()
        return begin(*command("broken", *more), cwd=tmp_path)

    def progress():
        with suppress(FileNotFoundError):
            return state.stat().st_mtime_ns

    if not any(ends_before_its_kill(again(), chance, longest, progress) for _ in range(KILLS)):
        run_to_its_end(again())
    assert sha256(models / "broken.pt") == sha256(models / "whole.pt")
    assert not state.exists()
