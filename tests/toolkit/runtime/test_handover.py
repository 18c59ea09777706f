"""X-rays handed to the process that owns the card: right, fair, and each death its own."""

import json
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from toolkit.errors import ModelRefusedError, ProviderError
from toolkit.runtime.engine import AnySize, FixedSizes, Plain
from toolkit.runtime.handover import SLOTS, Handover
from toolkit.runtime.owner import Owner, listening, refuse

NAMES = ["logits", "edge_map"]
DIGEST = "a" * 64


def listen(handover):
    def receive():
        while handover.receive():
            pass

    threading.Thread(target=receive, daemon=True).start()


def connected(address, digest=DIGEST):
    return Handover(address, digest, 5.0, listen)


class Gate(Plain):
    """Batches that wait for a gate; `ran` has what each held, by its first pixel."""

    def __init__(self, session, most):
        super().__init__(session, most)
        self.open, self.begun, self.ran = threading.Event(), threading.Event(), []
        self.open.set()

    def run(self, size, names):
        self.ran.append(self.staging[:size, 0, 0].tolist())
        self.begun.set()
        self.open.wait(30)
        return super().run(size, names)


@pytest.fixture
def address():
    # A socket's path has to be short.
    with tempfile.TemporaryDirectory() as folder:
        yield str(Path(folder) / "owner")


@contextmanager
def owning(address, session, sizes=(1, 2, 4)):
    gate = Gate(session, sizes[-1])
    owner = Owner(address, FixedSizes(session, gate, sizes=sizes), DIGEST)
    thread = threading.Thread(target=owner.serve)
    thread.start()
    try:
        yield gate
    finally:
        gate.open.set()
        owner.drain(0)
        thread.join(10)
        assert not thread.is_alive()


def test_answers_are_the_engines_own_whatever_came_together(address, session, xrays, expected):
    with owning(address, session):
        handovers = [connected(address) for _ in range(3)]
        assert {each.provider for each in handovers} == {"CPUExecutionProvider"}
        assert handovers[0].outputs == AnySize(session).outputs
        wrong = []

        def ask(handover, start):
            for count in (1, 5, 3):
                found = handover.run(NAMES, xrays[start : start + count])
                for name in NAMES:
                    want = expected[name][start : start + count]
                    wrong.append(not np.allclose(found[name], want, atol=1e-6))

        threads = [
            threading.Thread(target=ask, args=(each, place * 3))
            for place, each in enumerate(handovers)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len(wrong) == 18 and not any(wrong)


def test_more_xrays_than_there_are_slots_are_all_run(address, session, xrays):
    with owning(address, session, (16,)):
        many = np.resize(xrays, (SLOTS + 20, 224, 224))
        found = connected(address).run(["probabilities"], many)["probabilities"]
        np.testing.assert_array_equal(found[:12], found[12:24])
        assert len(found) == len(many)


def test_who_hands_over_much_does_not_hold_up_who_hands_over_little(address, session, xrays):
    much, little = xrays[:8].copy(), xrays[8:9].copy()
    much[:, 0, 0], little[:, 0, 0] = 1, 2
    with owning(address, session) as gate:
        first, second = connected(address), connected(address)
        gate.open.clear()
        done = threading.Barrier(3)
        first.submit(NAMES, much, lambda _: done.wait(30))
        assert gate.begun.wait(30)
        # The owner is at the first batch; the rest of `much` waits.
        second.submit(NAMES, little, lambda _: done.wait(30))
        gate.open.set()
        done.wait(30)
    assert 2 in gate.ran[1]


def test_owner_that_ends_is_said_to_whoever_waits_and_whoever_asks(address, session, xrays):
    said = []
    with owning(address, session) as gate:
        handover = connected(address)
        gate.open.clear()
        ended = threading.Event()
        handover.submit(NAMES, xrays[:8], lambda found: (said.append(found), ended.set()))
        assert gate.begun.wait(30)
        handover.leave()
        assert ended.wait(30)
    (error,) = said
    assert isinstance(error, ProviderError) and "has ended" in str(error)
    with pytest.raises(ProviderError, match="has ended"):
        handover.run(NAMES, xrays[:1])


def asking_for_ever(address, folder, begun):
    """Be a process that hands X-rays over until it is killed."""
    xrays = np.load(folder)
    handover = connected(address)
    while True:
        handover.run(["logits"], xrays)
        begun.set()


def test_process_that_dies_loses_only_its_own(address, session, xrays, expected, tmp_path):
    np.save(tmp_path / "xrays.npy", xrays)
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    with owning(address, session):
        dying = context.Process(
            target=asking_for_ever, args=(address, tmp_path / "xrays.npy", begun)
        )
        dying.start()
        assert begun.wait(60)
        handover = connected(address)
        os.kill(dying.pid, signal.SIGKILL)
        dying.join()
        found = handover.run(NAMES, xrays)
    np.testing.assert_array_equal(found["edge_map"], expected["edge_map"])


def test_owner_takes_the_place_of_one_that_died(address, session, xrays, expected):
    for _ in range(2):
        # The first leaves its socket behind.
        with owning(address, session):
            found = connected(address).run(NAMES, xrays[:2])
            np.testing.assert_array_equal(found["edge_map"], expected["edge_map"][:2])


def test_owner_that_dies_as_it_is_met_leaves_nothing_open(address, session):
    welcome = {"provider": "", "words": {}, "sha256": DIGEST, "shapes": AnySize(session).shapes}

    def greet_and_die(listener):
        for _ in range(3):
            connection, _ = listener.accept()
            # Nothing can be sent to it any more.
            connection.shutdown(socket.SHUT_RD)
            connection.sendall(json.dumps(welcome).encode() + b"\n")
            connection.close()

    with listening(address) as listener:
        thread = threading.Thread(target=greet_and_die, args=(listener,))
        thread.start()
        for attempt in range(3):
            with pytest.raises(ProviderError, match="has ended"):
                connected(address)
            if not attempt:
                open_at_first = len(os.listdir("/proc/self/fd"))
        thread.join()
        assert len(os.listdir("/proc/self/fd")) <= open_at_first


def test_no_xrays_come_to_no_outputs_at_once(address, session, xrays):
    with owning(address, session):
        found = connected(address).run(NAMES, xrays[:0])
    assert {name: len(found[name]) for name in NAMES} == dict.fromkeys(NAMES, 0)


def test_owner_of_another_file_is_refused(address, session):
    with owning(address, session), pytest.raises(ModelRefusedError, match="another file"):
        connected(address, "b" * 64)


def test_owner_that_cannot_run_the_model_says_why(address):
    thread = threading.Thread(target=refuse, args=(address, "it computes nonsense", 1.0))
    thread.start()
    with pytest.raises(ProviderError, match="it computes nonsense"):
        connected(address)
    thread.join()


def test_no_owner_is_an_error_once_patience_ends(address):
    with pytest.raises(ProviderError, match="has not started"):
        Handover(address, DIGEST, 0.2, listen)
