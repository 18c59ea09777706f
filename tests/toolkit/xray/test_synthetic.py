import re
import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from toolkit.errors import UsageError
from toolkit.xray.synthetic import GeneratedXray, generate

ALL_GRADES = (0, 1, 2, 3, 4)
COUNT = 400
HALF = COUNT // 2


@pytest.fixture(scope="module")
def many() -> list[GeneratedXray]:
    return generate(COUNT, seed=5)


@pytest.fixture(scope="module")
def all_grades() -> list[GeneratedXray]:
    return generate(300, seed=7, grades=ALL_GRADES)


def stacked(xrays):
    return np.stack([xray.pixels for xray in xrays]), np.array([xray.grade for xray in xrays])


def means_by_grade(values, grades):
    return [float(np.mean(values[grades == grade])) for grade in sorted(set(grades))]


def dark_band(pixels):
    """Rows of the joint space: the median over columns away from notch and corners."""
    heights = []
    for middle in (*range(55, 80, 4), *range(145, 170, 4)):
        column = pixels[:, middle - 3 : middle + 4].mean(axis=1)
        bone = np.median(np.concatenate([column[40:75], column[150:185]]))
        joint = column[90:135]
        heights.append(np.sum(joint < bone - 0.5 * (bone - joint.min())))
    return float(np.median(heights))


def spur_area(pixels):
    """Bone beside the joint that reaches further out than the femur above it, in pixels."""
    smooth = np.stack([pixels[y : y + 5].mean(axis=0) for y in range(220)])
    bone = np.median(smooth[40:75, 80:145])
    tissue = np.median(np.concatenate([smooth[75:130, :8], smooth[75:130, -8:]]))
    is_bone = smooth > (bone + tissue) / 2
    across = np.flatnonzero(is_bone[66:78].mean(axis=0) > 0.5)
    beside = is_bone[80:140]
    return float(beside[:, : across[0] - 2].sum() + beside[:, across[-1] + 3 :].sum())


def test_a_seed_gives_the_same_xrays_whatever_the_global_random_state():
    np.random.seed(1)
    first = generate(12, seed=3)
    np.random.seed(2)
    assert [(x.name, x.grade, x.pixels.tobytes()) for x in first] == [
        (x.name, x.grade, x.pixels.tobytes()) for x in generate(12, seed=3)
    ]


def test_another_seed_gives_other_xrays():
    first, second = stacked(generate(12, seed=3))[0], stacked(generate(12, seed=4))[0]
    assert all((a != b).mean() > 0.5 for a, b in zip(first, second, strict=True))


def test_xrays_are_grey_bytes_with_range_and_no_two_alike(many):
    for xray in many:
        assert xray.pixels.shape == (224, 224)
        assert xray.pixels.dtype == np.uint8
        assert xray.pixels.flags.c_contiguous
        assert xray.pixels.std() > 10
    assert len({xray.pixels.tobytes() for xray in many}) == len(many)


def test_every_patient_has_both_knees(many):
    names = [xray.name for xray in many]
    assert all(re.fullmatch(r"9\d{6}[LR]", name) for name in names)
    assert len(set(names)) == COUNT
    for left, right in zip(names[::2], names[1::2], strict=True):
        assert (left[-1], right[-1]) == ("L", "R")
        assert left[:7] == right[:7]


def test_odd_count_gives_the_last_patient_one_knee():
    assert [x.name for x in generate(3)] == ["9000001L", "9000001R", "9000002L"]
    assert [x.name for x in generate(1)] == ["9000001L"]


def test_outer_side_of_a_right_knee_is_on_the_left():
    """The fibula is on the outer side only."""
    pixels, _ = stacked(generate(60, seed=2))
    left, right = pixels[0::2].mean(axis=0), pixels[1::2].mean(axis=0)
    low = slice(190, 220)
    assert right[low, 25:45].mean() > right[low, -45:-25].mean() + 5
    assert left[low, -45:-25].mean() > left[low, 25:45].mean() + 5


@pytest.mark.parametrize("count", [1, 2, 7, 22, 23])
@pytest.mark.parametrize("grades", [(0, 2, 3, 4), ALL_GRADES, (4,)])
def test_classes_occur_equally_often(count, grades):
    counts = Counter(xray.grade for xray in generate(count, seed=11, grades=grades))
    assert set(counts) <= set(grades)
    assert max(counts.values()) - min(counts.get(grade, 0) for grade in grades) <= 1


def test_grade_does_not_follow_from_order_side_or_the_other_knee(many):
    grades = np.array([xray.grade for xray in many])
    left, right = grades[::2], grades[1::2]
    assert 0.17 < np.mean(left == right) < 0.33
    for part in (left, grades[:HALF]):
        assert all(abs(np.sum(part == grade) - HALF / 4) < 20 for grade in (0, 2, 3, 4))


def test_joint_space_narrows_with_the_grade(all_grades):
    pixels, grades = stacked(all_grades)
    heights = means_by_grade(np.array([dark_band(p) for p in pixels]), grades)
    assert all(wide - narrow > 1.5 for wide, narrow in pairwise(heights))


def test_osteophytes_grow_with_the_grade(all_grades):
    pixels, grades = stacked(all_grades)
    areas = means_by_grade(np.array([spur_area(p) for p in pixels]), grades)
    assert all(larger > 1.3 * smaller for smaller, larger in pairwise(areas))


def test_brightness_contrast_and_noise_are_independent_of_the_grade(many):
    """Away from the joint, where no sign of the grade is drawn."""
    from sklearn.feature_selection import f_classif

    pixels, grades = stacked(many)
    away = pixels[:, :50].astype(float)
    noise = np.abs(np.diff(away, axis=2)).mean(axis=(1, 2))
    exposure = np.stack([away.mean(axis=(1, 2)), away.std(axis=(1, 2)), noise], axis=1)
    assert (exposure.std(axis=0) > 3).all()
    assert (f_classif(exposure, grades)[1] > 0.01).all()


@pytest.mark.parametrize("bins", [32, 64, 256])
def test_grey_histogram_does_not_tell_the_class(many, bins):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    histograms = np.stack([np.histogram(x.pixels, bins, (0, 256))[0] for x in many]) / 224**2
    grades = np.array([xray.grade for xray in many])
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    linear.fit(histograms[:HALF], grades[:HALF])
    score = linear.score(histograms[HALF:], grades[HALF:])
    assert score < 0.33


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        *(({"count": count}, f"cannot generate {count} X-rays") for count in (0, -1, 2_000_000)),
        *(
            ({"grades": grades}, "grades to draw are .*give each of 0 to 4")
            for grades in ((), (5,), (-1, 0), (0, 0, 2))
        ),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_line(wrong, message):
    with pytest.raises(UsageError, match=message) as refusal:
        generate(**{"count": 4} | wrong)
    assert "\n" not in str(refusal.value) and not str(refusal.value).endswith(".")


@pytest.mark.full
def test_400_take_under_5_seconds():
    start = time.perf_counter()
    generate(400)
    assert time.perf_counter() - start < 5
