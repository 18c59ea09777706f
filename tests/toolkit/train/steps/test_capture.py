"""Steps replayed from graphs come to what the same steps made one by one come to.

Without a GPU a stand-in takes the graphs' place: it calls again what was captured, and like a
GPU it does nothing while it captures. `benchmarks/gpu.py` runs the real ones.
"""

from contextlib import contextmanager

import pytest
import torch

from toolkit.train.recipes import recipe
from toolkit.train.steps.capture import CapturedSteps
from toolkit.train.training import Training

CPU = torch.device("cpu")


class Recorded:
    """Graphs that are Python calls."""

    def __init__(self, fails_at=None):
        self.captures = self.replays = 0
        self.fails_at = fails_at

    @contextmanager
    def stream(self):
        yield

    def capture(self, call):
        self.captures += 1
        if self.captures == self.fails_at:
            try:
                raise RuntimeError("operation not permitted\nwhen a stream is capturing")
            finally:
                # As CUDA does at the end of a capture that broke off.
                raise RuntimeError("a previous error during capture")

        def replay():
            self.replays += 1
            call()

        return replay


def trained(tiny, monkeypatch, graphs, **changes):
    settings = {"layer_size": 4, "epochs": 4, "batch_size": 7, "dropout": 0.5} | changes
    if graphs:
        monkeypatch.setattr(
            "toolkit.train.training.steps_on",
            lambda device, step: CapturedSteps(device, step, graphs),
        )
    training = Training(tiny, recipe("default", **settings), 0, CPU)
    while training.epoch < 4:
        training.advance()
    return training


@pytest.fixture(scope="module", params=[{}, {"dropout_epochs": 1}, {"augmentation": 0.0}], ids=str)
def one_by_one(request, tiny):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return request.param, trained(tiny, monkeypatch, None, **request.param)


def assert_same(first, second):
    assert first.history == second.history
    for mine, theirs in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_replayed_steps_come_to_the_same_bits(tiny, monkeypatch, one_by_one):
    changes, expected = one_by_one
    graphs = Recorded()
    assert_same(trained(tiny, monkeypatch, graphs, **changes), expected)
    steps = -(-len(tiny.parts["train"]) // 7)
    # A kind of step is made twice as it is; with dropout on in the first epoch only, the last
    # batch of an epoch is of a kind of which there is one in it and three in the others.
    kinds, first = (3, 1) if "dropout_epochs" in changes else (2, 0)
    assert len(tiny.parts["train"]) % 7 and steps > 3
    assert graphs.captures == kinds
    assert graphs.replays == 4 * steps - 2 * kinds - first


def test_a_capture_that_fails_is_told_once_and_the_steps_are_made(
    tiny, monkeypatch, capsys, one_by_one
):
    changes, expected = one_by_one
    for fails_at in (1, 2):
        graphs = Recorded(fails_at)
        assert_same(trained(tiny, monkeypatch, graphs, **changes), expected)
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert "without a CUDA graph" in said[0] and "operation not permitted" in said[0]
        assert graphs.captures == fails_at


def test_what_is_resumed_captures_anew(tiny, monkeypatch, tmp_path):
    graphs = Recorded()
    training = trained(tiny, monkeypatch, graphs)
    before = graphs.captures
    training.save(tmp_path / "state.pt")
    training.load(tmp_path / "state.pt")
    training.advance()
    assert graphs.captures == before + 1
