"""Batches of fixed sizes: what reaches a session, and that it changes no answer."""

import ctypes
import threading

import numpy as np
import pytest

from toolkit.errors import ProviderError
from toolkit.runtime.engine import SIZES, AnySize, FixedSizes, Plain, open_fixed_sizes
from toolkit.runtime.golden import difference
from toolkit.runtime.graphs import Graphs
from toolkit.runtime.providers import open_session

NAMES = ["logits", "edge_map"]
COUNTS = (1, 2, 3, 5, 9, 17, 33, 64, 65, 128, 129, 300)
# On a CPU what is bound to a graph lies in memory, and nothing is recorded.
BATCHES = {"plain": Plain, "graphs": lambda session, most: Graphs(session, most, "cpu")}


class Spy:
    """A session that notes the shape of everything it is given."""

    def __init__(self, session):
        self._session, self.shapes = session, []

    def __getattr__(self, name):
        return getattr(self._session, name)

    def run(self, names, feed):
        self.shapes += [each.shape for each in feed.values()]
        return self._session.run(names, feed)

    def run_with_iobinding(self, binding, options):
        self._session.run_with_iobinding(binding, options)
        self.shapes += [binding.get_outputs()[1].shape()]


@pytest.fixture(params=BATCHES)
def batches(request):
    return BATCHES[request.param]


def test_no_other_shape_than_the_fixed_sizes_reaches_a_session(session, batches, xrays):
    spy = Spy(session)
    engine = FixedSizes(spy, batches(spy, SIZES[-1]))
    for count in COUNTS:
        assert len(engine.run(["logits"], np.resize(xrays, (count, 224, 224)))["logits"]) == count
    assert len(spy.shapes) >= len(COUNTS)
    assert {shape[0] for shape in spy.shapes} == set(SIZES)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9, 12])
def test_filling_a_batch_up_changes_no_answer(session, batches, xrays, expected, count):
    engine = FixedSizes(session, batches(session, 4), sizes=(1, 2, 4))
    # What fills a batch up is what lay there before.
    engine.run(["logits"], xrays[::-1])
    for given in (xrays[:count], list(xrays[:count])):
        found = engine.run(NAMES, given)
        np.testing.assert_allclose(found["logits"], expected["logits"][:count], atol=1e-6)
        np.testing.assert_array_equal(found["edge_map"], expected["edge_map"][:count])


def test_outputs_of_a_batch_are_not_those_of_the_next(session, batches, xrays, expected):
    engine = FixedSizes(session, batches(session, 4), sizes=(4,))
    first = engine.run(NAMES, xrays[:4])
    engine.run(NAMES, xrays[4:8])
    np.testing.assert_array_equal(first["edge_map"], expected["edge_map"][:4])


@pytest.mark.parametrize(("count", "padding"), [(1, 0), (3, 1), (33, 31), (128, 0), (129, 0)])
def test_what_fills_batches_up_is_known(small_files, count, padding):
    engine = open_fixed_sizes(small_files.path("pipeline"), "cpu", 1)
    assert engine.padding(count) == padding
    assert AnySize(open_session(small_files.path("pipeline"), "cpu", 1)).padding(count) == 0


class Failing(Plain):
    """Batches that cannot be recorded, or fail after that many."""

    def __init__(self, session, most, good):
        super().__init__(session, most)
        self._good = good

    def run(self, size, names):
        if not self._good:
            raise ProviderError("no graph can be had")
        self._good -= 1
        return super().run(size, names)


def test_graphs_that_cannot_be_had_are_done_without_in_the_same_sizes(
    session, xrays, expected, capsys
):
    spy = Spy(session)
    engine = FixedSizes(spy, Failing(session, 4, 0), lambda: Plain(spy, 4), (1, 2, 4))
    for _ in range(2):
        found = engine.run(NAMES, xrays[:7])
        np.testing.assert_allclose(found["logits"], expected["logits"][:7], atol=1e-6)
    assert {shape[0] for shape in spy.shapes} == {4}
    assert capsys.readouterr().err.count("running without CUDA graphs") == 1


def test_card_that_fails_later_is_a_failure(session, xrays):
    engine = FixedSizes(session, Failing(session, 4, 1), lambda: Plain(session, 4), (4,))
    engine.run(NAMES, xrays[:4])
    with pytest.raises(ProviderError, match="no graph"):
        engine.run(NAMES, xrays[:4])


def test_memory_that_the_card_reads_is_given_back_before_it_goes(session, monkeypatch):
    class Cuda:
        """The library of CUDA, which must know of no memory that is gone."""

        def __init__(self):
            self.known = {}

        def cudaHostRegister(self, address, size, _):  # noqa: N802
            self.known[address.value] = size.value
            return 0

        def cudaHostUnregister(self, address):  # noqa: N802
            ctypes.string_at(address.value, self.known.pop(address.value))
            return 0

    cuda = Cuda()
    with monkeypatch.context() as patched:
        patched.setattr(ctypes, "CDLL", lambda *_: cuda)
        graphs = Graphs(session, 4, "cpu")
    assert [*cuda.known.values()] == [graphs.staging.nbytes]
    staging = graphs.staging[1:]
    del graphs
    assert cuda.known
    del staging
    assert not cuda.known


def test_several_threads_get_each_its_own_answers(session, batches, xrays, expected):
    engine = FixedSizes(session, batches(session, 4), sizes=(1, 2, 4))
    wrong = []

    def ask(place):
        for _ in range(10):
            found = engine.run(NAMES, xrays[place : place + 3])["edge_map"]
            wrong.append((found != expected["edge_map"][place : place + 3]).any())

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(0, 9, 3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(wrong) == 30 and not any(wrong)


def test_golden_xrays_pass_through_every_size(session, xrays):
    golden = {"xray": xrays[:3], **AnySize(session).run(["logits"], xrays[:3])}
    ran = []

    def run(names, batch):
        ran.append(len(batch))
        found = AnySize(session).run(names, batch)
        if len(batch) == 8:
            # The last of what is in a batch of 8 is wrong.
            found["logits"][7] += 1
        return found

    assert difference(golden, ["logits"], run, sizes=(1, 2, 4)) == ""
    assert ran == [1, 1, 1, 3, 1, 2, 4]
    assert "logits differs" in difference(golden, ["logits"], run, sizes=(1, 8))
