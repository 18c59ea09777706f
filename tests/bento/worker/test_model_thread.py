"""A worker whose model another process runs: what it does where that one refuses, or ends."""

import asyncio
import io
import itertools
import json
import tempfile
import threading
import time
from pathlib import Path

import pytest

from bento.http.routes import NAMES
from bento.worker.counters import Metrics
from bento.worker.log import Log
from bento.worker.model_thread import ModelThread
from toolkit.model.answer import Meaning
from toolkit.runtime.engine import open_fixed_sizes
from toolkit.runtime.handover import Handover
from toolkit.runtime.owner import Owner, listening
from toolkit.runtime.session import Predictor

CLASSES = ("none", "minimal", "moderate", "severe")


@pytest.fixture
def address():
    # A socket's path has to be short.
    with tempfile.TemporaryDirectory() as folder:
        yield str(Path(folder) / "owner")


def test_worker_that_is_refused_does_not_ask_again_without_a_pause(served, open_interface, address):
    asked = []

    def refuse(listener):
        while len(asked) < 3:
            connection, _ = listener.accept()
            with connection:
                asked.append(time.monotonic())
                connection.sendall(json.dumps({"reason": "no card"}).encode() + b"\n")

    with listening(address) as listener:
        thread = threading.Thread(target=refuse, args=(listener,))
        thread.start()
        with open_interface(served, TOOLKIT_OWNER_SOCKET=address) as client:
            thread.join()
            assert client.get("/readyz").json()["detail"] == "no card"
    assert min(later - sooner for sooner, later in itertools.pairwise(asked)) > 0.5


def test_owner_that_ends_as_a_worker_takes_it_up_is_not_taken_for_ready(served, address):
    owner = Owner(address, open_fixed_sizes(served.path("pipeline"), "cpu", 1), "a" * 64)
    serving = threading.Thread(target=owner.serve)
    serving.start()
    opened = []

    def take_up():
        handover = Handover(address, "a" * 64, 5.0, model.listen)
        opened.append(handover)
        if len(opened) == 1:
            handover.leave()
            while handover.fileno() != -1:
                time.sleep(0.001)
        return Predictor("small", Meaning(CLASSES), "a" * 64, handover)

    model = ModelThread(take_up, Metrics(CLASSES, NAMES), Log(io.StringIO()), 0.01)

    async def begin():
        await model.start()
        yield model.reason
        while model.reason:
            await asyncio.sleep(0.01)
        yield len(opened)
        model.stop()
        opened[-1].leave()
        while opened[-1].fileno() != -1:
            await asyncio.sleep(0.01)

    async def said():
        return [each async for each in begin()]

    reason, tries = asyncio.run(said())
    owner.drain(0)
    serving.join()
    assert "has ended" in reason and tries == 2
