"""Properties of the comparison itself: whatever the arrays, it finds what it should."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from export.compare import measurement
from export.compare.measurement import HISTOGRAM_EDGES, Measurement, Origin, Setting, compare
from export.compare.samples import NATURAL, Samples
from toolkit.model.equivalence import TensorSpec
from toolkit.model.tolerance import bound_of

# ONNX Runtime, told to flush subnormal numbers, leaves its thread so: none are drawn.
LOGITS = arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.just(4)),
    elements=st.floats(-2e3, 2e3, width=32, allow_subnormal=False),
)
SHIFTS = st.floats(-(2**-13), 2**-13, width=32, allow_subnormal=False)


def measured(output, pairs, kind="generated"):
    """A Measurement of (actual, reference) pairs of one size, all of one kind."""
    count = len(pairs[0][1])
    samples = Samples(np.zeros((count, 1, 1), np.uint8), (kind,) * count)
    dtype = str(pairs[0][1].dtype)
    found = Measurement(TensorSpec(output, dtype, ("batch", 4)), samples, bound_of(output))
    for place, (actual, reference) in enumerate(pairs):
        found.add(actual, reference, f"run {place}")
    return found


@given(LOGITS)
@settings(deadline=None)
def test_equal_arrays_pass_with_differences_of_zero(reference):
    found = measured("logits", [(reference.copy(), reference)])
    difference = found.difference()
    assert difference.passed and not found.failures() and not found.flips
    assert difference.max_abs == difference.mean_abs == difference.max_ulp == 0
    assert found.argmax_agreement() == 1
    assert difference.histogram == (reference.size,) + (0,) * len(HISTOGRAM_EDGES)


@given(LOGITS, st.floats(0, 3, allow_subnormal=False), st.data())
@settings(deadline=None)
def test_logits_pass_if_and_only_if_each_is_within_the_bound_of_its_own_xray(
    reference, share, data
):
    row = data.draw(st.integers(0, len(reference) - 1))
    column = data.draw(st.integers(0, 3))
    bound = 1e-5 * max(1.0, float(np.abs(reference[row]).max()))
    actual = reference.copy()
    actual[row, column] += np.float32(share * bound)
    error = abs(float(actual[row, column]) - float(reference[row, column]))
    found = measured("logits", [(actual, reference)])
    assert found.difference().passed == (error <= bound)
    assert found.difference().max_abs == error
    if error > bound:
        assert f"number {row} " in found.failures()[0]


@given(LOGITS, st.sampled_from([np.nan, np.inf, -np.inf]), st.booleans(), st.data())
@settings(deadline=None)
def test_what_is_not_finite_never_passes_even_where_both_have_it(reference, value, both, data):
    place = data.draw(st.integers(0, reference.size - 1))
    actual = reference.copy()
    actual.flat[place] = value
    if both:
        reference = actual.copy()
    found = measured("logits", [(actual, reference)])
    assert not found.difference().passed
    assert found.difference().max_abs == -1
    assert found.failures()


@given(LOGITS, st.integers(1, 50), st.sampled_from([-np.inf, np.inf]))
@settings(deadline=None)
def test_ulps_count_the_representable_numbers_between(reference, steps, towards):
    # Away from zero, about which lie the subnormal numbers.
    reference = reference + np.copysign(np.float32(1), reference)
    actual = reference.copy()
    for _ in range(steps):
        actual[0, 0] = np.nextafter(actual[0, 0], np.float32(towards))
    assert measured("logits", [(actual, reference)]).difference().max_ulp == steps


@given(LOGITS, st.data())
@settings(deadline=None)
def test_every_change_of_class_is_a_flip_with_its_margin(reference, data):
    actual = reference[:, data.draw(st.permutations(range(4)))]
    found = measured("logits", [(actual, reference)])
    changed = actual.argmax(1) != reference.argmax(1)
    assert [flip.sample for flip in found.flips] == np.flatnonzero(changed).tolist()
    assert found.argmax_agreement() == pytest.approx(1 - changed.mean())
    for flip in found.flips:
        second, first = np.sort(reference[flip.sample].astype(float))[-2:]
        assert flip.margin == first - second
        assert flip.tie == (flip.margin <= 2 * flip.error)


@given(LOGITS, SHIFTS, SHIFTS)
@settings(deadline=None)
def test_the_order_of_the_runs_changes_no_result_and_no_figure(reference, first, second):
    pairs = [(reference + np.float32(each), reference) for each in (first, second)]
    forth, back = measured("logits", pairs), measured("logits", pairs[::-1])
    assert forth.difference() == back.difference()
    apart = [measured("logits", [pair]).difference() for pair in pairs]
    assert forth.difference().max_abs == max(each.max_abs for each in apart)
    assert forth.difference().passed == all(each.passed for each in apart)


@given(LOGITS, st.sampled_from(["float64", "float16"]))
@settings(deadline=None)
def test_another_type_or_shape_never_passes_whatever_the_values(reference, dtype):
    assert not measured("logits", [(reference.astype(dtype), reference)]).difference().passed
    assert not measured("logits", [(reference[:, :3], reference)]).difference().passed


@given(
    arrays(np.uint8, (2, 6, 6)), st.integers(0, 71), st.integers(1, 255), st.sampled_from([1, -1])
)
@settings(deadline=None)
def test_one_changed_byte_of_an_edge_map_fails(reference, place, by, sign):
    actual = reference.copy()
    level = int(actual.flat[place]) + sign * by
    actual.flat[place] = level % 256
    found = measured("edge_map", [(actual, reference)])
    assert not found.difference().passed
    assert found.difference().max_abs == abs(level % 256 - int(reference.flat[place]))


def test_tolerance_scales_with_the_logits_of_each_xray():
    reference = np.array([[0.5, -0.1], [3.0, -2000.0], [1.0, 1.0]], dtype=np.float32)
    natural = np.array([True, True, False])
    assert bound_of("logits").allowed(reference, natural) == pytest.approx([1e-5, 2e-2, 1e-5])
    assert bound_of("edge_map").allowed(reference, natural) == pytest.approx([0, 0, 0])
    novelty = bound_of("novelty").allowed(np.float32([0.5, 1, 300]), natural)
    assert novelty == pytest.approx([1e-4, 1e-4, 3e-2])
    bounds = bound_of("probabilities").allowed(reference, natural)
    assert bounds == pytest.approx([1e-5, 1e-5, 1e-2])
    assert {"real", "generated"} <= set(NATURAL)


@pytest.mark.parametrize(
    ("moves", "spread"),
    [
        ({}, 0),
        ({"without optimisations": 1e-3}, 0),
        ({"in shuffled batches of 7": 1e-3}, 1e-3),
        ({"in batches of 1": 1e-3, "without optimisations": 5e-3}, 1e-3),
    ],
)
def test_batch_invariance_is_of_one_run_in_all_its_batches(moves, spread):
    count = 20
    xrays, logits = np.arange(count, dtype=np.uint8), np.zeros((count, 4), np.float32)

    def run(feed):
        # Which X-rays are together tells the setting: all are in order but in the shuffled one.
        together = len(feed["xray"])
        in_order = (np.diff(feed["xray"].astype(int)) == 1).all()
        name = f"in batches of {together}" if in_order else "in shuffled batches of 7"
        return {"logits": logits[feed["xray"]] + np.float32(moves.get(name, 0))}

    def plain(feed):
        return {"logits": logits[feed["xray"]] + np.float32(moves.get("without optimisations", 0))}

    tried = measurement.settings(run) | {"without optimisations": Setting(plain, 7)}
    specs = (
        (TensorSpec("xray", "uint8", ("batch",)),),
        (TensorSpec("logits", "float32", ("batch", 4)),),
    )
    samples = Samples(np.zeros((count, 1, 1), np.uint8), ("generated",) * count)
    reference = {"xray": xrays, "logits": logits}
    leg = compare(tried, specs, reference, samples, Origin("a file", "", "a test"))
    assert leg.batch_invariance == pytest.approx(spread)
