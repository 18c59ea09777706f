import numpy as np
import pytest
import torch

from toolkit.train.steps.augmentation import augment, draw


def changed(xrays, strength=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return augment(torch.as_tensor(xrays), strength, draw(len(xrays), generator))


def dots(places, copies):
    """Black X-rays with soft white dots at (row, column)."""
    rows, columns = np.mgrid[:224, :224]
    picture = sum(np.exp(-((rows - r) ** 2 + (columns - c) ** 2) / 18) for r, c in places)
    return np.repeat(np.rint(255 * picture)[None].astype(np.uint8), copies, axis=0)


def test_it_gives_as_many_xrays_of_the_same_kind(drawn_xrays):
    for count in (1, 5):
        result = changed(drawn_xrays[:count])
        assert (result.shape, result.dtype) == ((count, 224, 224), torch.uint8)


def test_it_hangs_on_its_draws_alone(drawn_xrays):
    xrays = drawn_xrays[:8]
    first = changed(xrays, seed=1)
    torch.rand(5)
    assert torch.equal(first, changed(xrays, seed=1))
    assert not torch.equal(first, changed(xrays, seed=2))


def test_the_original_stays_as_it_is(drawn_xrays):
    xrays = torch.from_numpy(drawn_xrays[:2].copy())
    changed(xrays)
    assert torch.equal(xrays, torch.from_numpy(drawn_xrays[:2]))


def test_every_xray_gets_a_change_of_its_own(drawn_xrays):
    results = changed(np.repeat(drawn_xrays[:1], 16, axis=0))
    assert len({each.numpy().tobytes() for each in results}) == 16


def test_without_strength_it_only_mirrors_and_does_so_half_the_time(drawn_xrays):
    xray = drawn_xrays[0]
    results = changed(np.repeat(xray[None], 200, axis=0), strength=0.0).numpy()
    same = (results == xray).all(axis=(1, 2))
    mirrored = (results == xray[:, ::-1]).all(axis=(1, 2))
    assert (same ^ mirrored).all()
    # Four standard deviations of a fair coin.
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(200)


def test_a_draw_of_exactly_nothing_still_shows_a_knee(drawn_xrays, monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, 0.5))
    result = changed(drawn_xrays[:1])[0].numpy()
    assert (result == drawn_xrays[0]).all() or (result == drawn_xrays[0][:, ::-1]).all()


def test_shapes_are_kept_within_ten_percent_seven_degrees_and_a_tenth_of_the_side():
    places = [(80, 80), (80, 144), (144, 80)]
    found = changed(dots(places, 60)).numpy()
    turned = []
    for picture in found:
        # Whatever the exposure, the dots are the brightest.
        centres = brightest(picture, 3)
        sides = sorted(
            np.hypot(*(a - b)) for a, b in zip(centres, np.roll(centres, 1, 0), strict=True)
        )
        assert sides[1] / sides[0] == pytest.approx(1, abs=0.05)
        assert sides[2] / sides[0] == pytest.approx(np.sqrt(2), abs=0.07)
        assert 64 * 0.88 < sides[0] < 64 * 1.12
        corner = centres[np.argmin([abs(np.hypot(*(c - centres.mean(0)))) for c in centres])]
        others = [c for c in centres if not np.array_equal(c, corner)]
        across = max((c - corner for c in others), key=lambda v: abs(v[1]))
        turned.append(np.degrees(np.arctan(across[0] / across[1])))
        middle = (centres - 111.5).mean(0)
        assert np.abs(middle).max() < 12 * 1.12 + 0.1 * 224 / 2 * 1.12
    assert max(map(abs, turned)) < 8
    assert min(turned) < -3
    assert max(turned) > 3


def brightest(picture, count):
    """Centres of the brightest spots, (count, 2), rows and columns."""
    left = picture.astype(float) - np.median(picture)
    centres = []
    rows, columns = np.mgrid[:224, :224]
    for _ in range(count):
        r, c = np.unravel_index(left.argmax(), left.shape)
        near = (rows - r) ** 2 + (columns - c) ** 2 < 144
        weight = np.where(near, np.clip(left, 0, None), 0)
        centres.append(
            [(rows * weight).sum() / weight.sum(), (columns * weight).sum() / weight.sum()]
        )
        left[near] = 0
    return np.array(centres)


def test_exposure_changes_and_keeps_the_order_of_greys():
    ramp = np.repeat(np.linspace(60, 190, 224).astype(np.uint8)[:, None], 224, axis=1)
    results = changed(np.repeat(ramp[None], 30, axis=0)).numpy()
    middles = results[:, 112, 112].astype(int)
    assert middles.std() > 5
    for picture in results:
        column = picture[40:184, 112].astype(int)
        assert (np.diff(column) >= 0).all()


def test_colours_move_and_turn_together_and_are_re_exposed_alike(drawn_xrays):
    grey = changed(drawn_xrays[:4])
    colour = changed(np.repeat(drawn_xrays[:4, :, :, None], 3, axis=3))
    for channel in range(3):
        assert torch.equal(colour[..., channel], grey)


def test_what_has_one_side_only_is_never_mirrored():
    xrays = torch.as_tensor(dots([(112, 40)], 64))
    draws = draw(64, torch.Generator().manual_seed(0))
    plain = augment(xrays, 0.0, draws, mirror=False)
    assert torch.equal(plain, xrays)
    assert not torch.equal(augment(xrays, 0.0, draws, mirror=True), xrays)
