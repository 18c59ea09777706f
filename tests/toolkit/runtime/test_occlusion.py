"""Where a planted decision is found, in the input and at the place where it was planted."""

import io

import numpy as np
import pytest
from PIL import Image

from toolkit.runtime.heat_picture import draw
from toolkit.runtime.occlusion import Heat, occlusion

ROWS, COLUMNS = slice(96, 128), slice(32, 64)


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    xray, edge_map = rng.integers(60, 200, (2, 224, 224)).astype(np.uint8)
    return {"xray": xray, "edge_map": edge_map}


def by_region(of, weight):
    """A model whose second class's log-odds are a mean grey of one region of one picture."""

    def classify(given):
        chosen = given[of]
        assert given["xray"].shape == given["edge_map"].shape
        odds = weight * chosen[:, ROWS, COLUMNS].mean(axis=(1, 2)) / 100
        return np.stack([np.zeros_like(odds), odds], axis=1).astype(np.float32)

    return classify


@pytest.mark.parametrize("of", ["xray", "edge_map"])
def test_the_region_that_decides_is_found_in_its_picture_alone(pictures, of):
    for each in pictures.values():
        each[ROWS, COLUMNS] = 255
    heat = occlusion(by_region(of, 1.0), pictures)
    found = heat.falls.pop(of)
    (other,) = heat.falls.values()
    assert heat.target == 1
    assert np.abs(other).max() < 1e-6
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert ROWS.start <= row < ROWS.stop and COLUMNS.start <= column < COLUMNS.stop
    far = found.copy()
    far[ROWS.start - 32 : ROWS.stop + 32, COLUMNS.start - 32 : COLUMNS.stop + 32] = 0
    assert np.abs(far).max() < 1e-6


def test_what_speaks_for_one_class_speaks_against_the_other(pictures):
    model = by_region("edge_map", 1.0)
    one, other = (occlusion(model, pictures, target).falls["edge_map"] for target in (0, 1))
    np.testing.assert_allclose(one, -other, atol=1e-9)
    assert other.max() > 0.5


def test_the_heat_is_the_mean_fall_of_the_log_odds_over_the_patches_on_a_pixel(pictures):
    pictures["edge_map"][:] = 0
    pictures["edge_map"][ROWS, COLUMNS] = 200
    falls = occlusion(by_region("edge_map", 1.0), pictures).falls["edge_map"]
    # A pixel amid the region lies on four patches; they cover 1, 1/2, 1/2 and 1/4 of it.
    assert falls[ROWS.start + 4, COLUMNS.start + 4] == pytest.approx(2 * 2.25 / 4, rel=1e-6)


def test_red_speaks_for_and_blue_against_on_one_scale(pictures):
    image, edges = np.zeros((2, 224, 224))
    image[:112], edges[112:] = 2.0, -2.0
    heat = Heat(0, {"xray": image, "edge_map": edges})
    with Image.open(io.BytesIO(draw(pictures, heat, "caption"))) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    left, right = pixels[50:480, 20:440], pixels[50:480, 490:910]

    def redness(part):
        return (part[..., 0] - part[..., 2]).mean()

    assert redness(left[:200]) > 60 > 1 > abs(redness(left[240:]))
    assert redness(right[240:]) < -60 < -1 < -abs(redness(right[:200]))


def test_without_any_effect_the_picture_is_plain(pictures):
    heat = Heat(0, dict.fromkeys(pictures, np.zeros((224, 224))))
    with Image.open(io.BytesIO(draw(pictures, heat, "caption"))) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(pixels[..., 0] - pixels[..., 2]).max() <= 2
