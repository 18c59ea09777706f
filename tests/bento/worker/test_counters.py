"""The memory that all processes of a service count in."""

import pytest

from bento.http.routes import NAMES
from bento.worker.counters import Metrics, beats, rows, share
from bento.worker.settings import MOST_WORKERS

CLASSES = ("none", "severe")


@pytest.mark.parametrize("workers", [1, MOST_WORKERS])
def test_sign_of_life_of_the_last_process_is_heard_and_counts_as_nothing_else(workers, monkeypatch):
    shared = share()
    for name, value in shared.items():
        monkeypatch.setenv(name, value)
    count = rows(workers)
    first, last = (Metrics(CLASSES, NAMES, place, count) for place in (0, count - 1))
    first.answered(NAMES[0], 200)
    before = first.text()
    last.alive()
    assert beats(shared)[count - 1] > 0
    assert first.text() == before and f'{{route="{NAMES[0]}",status="200"}} 1\n' in before
