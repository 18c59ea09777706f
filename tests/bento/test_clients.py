"""More clients never get less: no count of them falls off a cliff, whatever runs the model."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CARD = {"TOOLKIT_OWNER": "card", "CARD": "h200", "PYTHONPATH": str(ROOT / "benchmarks")}
PROVIDERS = {"cpu": {}, "one process for all": {"TOOLKIT_OWNER": "bento.owner"}, "card": CARD}
pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc to look into")


@pytest.fixture(scope="module")
def benchmark():
    """The module `benchmarks/service.py`, whose folder is on the path while it is imported."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield importlib.import_module("service")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def drawn(benchmark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    benchmark.drawn(folder)
    return folder


def climbed(benchmark, drawn, home, counts, seconds, environment):
    with benchmark.serving("toolkit", 2, home, **environment) as (_, url):
        benchmark.asked(url, drawn, "--clients", 64, "--seconds", 2)
        return benchmark.climbed(url, drawn, seconds, counts)


@pytest.mark.full
@pytest.mark.alone
@pytest.mark.xfail(reason="0.82 to 0.9 is reached at 256 and 512 clients that share two cores")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_no_count_of_clients_gets_less_than_a_smaller_one(benchmark, drawn, provider, tmp_path):
    best = {}
    for number in range(3):
        home = tmp_path / str(number)
        home.mkdir()
        found = climbed(benchmark, drawn, home, benchmark.CLIMB, 3, PROVIDERS[provider])
        assert not [each for each in found.values() if each["outcomes"].get("wrong")]
        for count, each in found.items():
            # Whatever else ran on the machine took from one round, not from all.
            best[count] = max(best.get(count, 0), each["goodput"])
    assert benchmark.cliff(best) >= 0.9, best


@pytest.mark.full
@pytest.mark.alone
@pytest.mark.timeout(240)
def test_stand_in_for_a_card_answers_right_to_few_clients_and_to_many(benchmark, drawn, tmp_path):
    found = climbed(benchmark, drawn, tmp_path, (1, 64), 1, CARD)
    for each in found.values():
        assert set(each["outcomes"]) == {"good"} and each["goodput"] > 0
    assert found[64]["goodput"] > found[1]["goodput"]


def test_cliff_is_the_least_against_the_best_of_fewer_clients(benchmark):
    assert benchmark.cliff({1: 100, 2: 200, 4: 150, 8: 300}) == 0.75
    assert benchmark.cliff({1: 100, 2: 200}) == 1
