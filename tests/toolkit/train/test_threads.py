import os

import pytest
import torch

from toolkit.train.recipes import PRESETS
from toolkit.train.threads import share_cores
from toolkit.train.training import Training


@pytest.fixture
def threads():
    """PyTorch with four threads, and with its own again afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield torch.get_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("cores", "processes", "expected"), [(3, 1, 3), (8, 1, 4), (8, 4, 2), (3, 2, 1), (1, 4, 1)]
)
def test_no_more_threads_than_cores_for_them(threads, monkeypatch, cores, processes, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    share_cores(processes)
    assert threads() <= expected and (threads() == expected or os.cpu_count() < cores)


def test_a_training_has_a_thread_for_each_core_that_it_may_use(threads, monkeypatch, tiny):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    Training(tiny, PRESETS["default"], 0, torch.device("cpu"))
    assert threads() == 1
