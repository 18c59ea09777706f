import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from toolkit.model.records import PreprocessingConstants
from toolkit.networks.preprocessing import Preprocessing
from toolkit.train.recipes import STUDY_EDGES

KERNEL = np.array([[-1, -1, -1], [0, 0, 0], [1, 1, 1]])


def integer_edges(xray):
    """The definition in integers, with OpenCV: uint8 (224, 224)."""
    d = cv2.filter2D(xray.astype(np.int16), cv2.CV_16S, KERNEL, borderType=cv2.BORDER_REFLECT_101)
    magnitude = np.abs(d.astype(int))
    magnitude[magnitude <= 10] = 0
    if not magnitude.any():
        return np.zeros((224, 224), np.uint8)
    scale = np.float32(255) / np.float32(magnitude.max())
    return np.rint(magnitude.astype(np.float32) * scale).astype(np.uint8)


def study_edges(xray):
    """The study's own code, in floats: uint8 (224, 224)."""
    rgb = cv2.merge([xray.astype(np.float32) / 255] * 3)
    grey = cv2.cvtColor(rgb * 255, cv2.COLOR_RGB2GRAY)
    both = np.zeros_like(grey)
    for kernel in (KERNEL, -KERNEL):
        one = cv2.filter2D(grey, -1, kernel.astype(np.float32), borderType=cv2.BORDER_REFLECT_101)
        both += cv2.threshold(one, 10, 255, cv2.THRESH_TOZERO)[1]
    return np.rint(both * (255 / both.max())).astype(np.uint8)


def integer_resized(xray):
    """224 to 256 in sixteenths, as integers 0 to 65,280: float64 (256, 256)."""
    rows = np.zeros((256, 224))
    for target in range(256):
        # The centre (target + 1/2) * 7/8 - 1/2, in sixteenths.
        place = 14 * target - 1
        for source, weight in ((place // 16, 16 - place % 16), (place // 16 + 1, place % 16)):
            rows[target, min(max(source, 0), 223)] += weight
    return rows @ xray.astype(np.float64) @ rows.T


def artificial():
    """Noise, black, white, one pixel in every kind of place, and edges about the threshold."""
    random = np.random.default_rng(1)
    xrays = [np.zeros((224, 224)), np.full((224, 224), 255), np.full((224, 224), 137)]
    for y, x in ((0, 0), (0, 100), (1, 1), (100, 0), (100, 223), (111, 112), (222, 5), (223, 223)):
        for value in (1, 10, 11, 255):
            pixel = np.zeros((224, 224))
            pixel[y, x] = value
            xrays.append(pixel)
    xrays += [random.integers(0, top, (224, 224)) for top in (2, 5, 12, 64, 256) for _ in range(4)]
    for step in (1, 3, 4, 10, 11):
        rows = np.arange(224)[:, None] // 7 % 8 * step
        xrays.append(np.broadcast_to(rows, (224, 224)))
        xrays.append(np.broadcast_to(rows.T, (224, 224)))
    return np.stack(xrays).astype(np.uint8)


@pytest.fixture(scope="module")
def module():
    return Preprocessing(PreprocessingConstants())


def edge_maps(module, xrays):
    return module.edge_map(torch.from_numpy(xrays)).numpy()


@pytest.mark.parametrize("source", ["artificial", "drawn_xrays", "real_xrays"])
def test_edges_are_the_bytes_of_the_integer_definition(module, source, request):
    xrays = artificial() if source == "artificial" else request.getfixturevalue(source)
    expected = np.stack([integer_edges(xray) for xray in xrays])
    found = edge_maps(module, xrays)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("source", ["drawn_xrays", "real_xrays"])
def test_under_half_a_percent_of_edge_pixels_differ_from_the_studys_float_code(
    module, source, request
):
    xrays = request.getfixturevalue(source)
    expected = np.stack([study_edges(xray) for xray in xrays])
    assert expected.any(axis=(1, 2)).all()
    assert (edge_maps(module, xrays) != expected).mean() < 0.005


def test_an_edge_of_exactly_the_threshold_is_dropped(module):
    xrays = np.zeros((2, 224, 224), np.uint8)
    xrays[:, 100] = 100
    # Three times 3 is 9, three times 4 is 12; then single pixels of 10 and 11.
    xrays[:, 50, 50], xrays[:, 50, 60] = 10, 11
    found = edge_maps(module, xrays)[0]
    assert found[49, 50] == found[51, 50] == 0
    assert found[49, 60] == found[51, 60] == round(11 * 255 / 300)
    assert found[99, 50] == found[101, 50] == 255


@pytest.mark.parametrize("constants", [PreprocessingConstants(), STUDY_EDGES])
@pytest.mark.parametrize("grey", [0, 137, 255])
def test_a_blank_xray_gives_zeros_and_no_nan(constants, grey):
    module = Preprocessing(constants)
    xray = torch.full((2, 224, 224), grey, dtype=torch.uint8)
    assert not module.edge_map(xray).any()
    image, edges = module(xray)
    assert image.isfinite().all()
    assert edges.isfinite().all()


class Finite(TorchFunctionMode):
    """Looks at every value on the way: an integer made of NaN is any integer, by device."""

    seen = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            assert np.isfinite(result.numpy()).all(), function
            Finite.seen += 1
        return result


def test_a_blank_xray_makes_no_nan_on_the_way_either(module):
    with Finite():
        module(torch.zeros((1, 224, 224), dtype=torch.uint8))
    assert Finite.seen > 10


def test_the_size_of_a_batch_changes_nothing(module, drawn_xrays):
    xrays = torch.from_numpy(drawn_xrays[:7])
    together = module(xrays)
    for index in range(7):
        alone = module(xrays[index : index + 1])
        assert torch.equal(alone[0][0], together[0][index])
        assert torch.equal(alone[1][0], together[1][index])


@pytest.mark.parametrize("source", ["artificial", "drawn_xrays", "real_xrays"])
def test_the_resized_xray_is_the_integer_over_65280(module, source, request):
    xrays = artificial() if source == "artificial" else request.getfixturevalue(source)[:60]
    found = module.resized(torch.from_numpy(xrays)).numpy()
    expected = np.stack([integer_resized(xray) for xray in xrays])
    assert expected.max() <= 65_280
    np.testing.assert_array_equal(found[:, 0], expected.astype(np.float32) / np.float32(65_280))


@pytest.mark.parametrize("source", ["artificial", "drawn_xrays"])
def test_the_resize_is_bilinear_with_half_pixel_centres(module, source, request):
    xrays = artificial() if source == "artificial" else request.getfixturevalue(source)
    grey = torch.from_numpy(xrays)
    expected = functional.interpolate(
        grey.unsqueeze(1).double() / 255, (256, 256), mode="bilinear", align_corners=False
    )
    assert (module.resized(grey).double() - expected).abs().max() <= 1e-6


def test_the_inputs_have_the_networks_shapes_and_are_normalised_as_the_manifest_says(drawn_xrays):
    xrays = torch.from_numpy(drawn_xrays[:3])
    own = PreprocessingConstants(edge_mean=12.5, edge_std=3.0)
    for constants, mean, std in ((STUDY_EDGES, 0.449, 0.226), (own, 12.5, 3.0)):
        module = Preprocessing(constants)
        image, edges = module(xrays)
        assert (image.shape, image.dtype) == ((3, 3, 256, 256), torch.float32)
        assert (edges.shape, edges.dtype) == ((3, 1, 224, 224), torch.float32)
        # ImageNet's own numbers, typed from torchvision's documentation.
        for channel, (m, s) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
            back = image[:, channel].double() * s + m
            assert (back - module.resized(xrays)[:, 0].double()).abs().max() < 1e-6
        back = edges[:, 0].double() * std + mean
        assert (back - module.edge_map(xrays).double()).abs().max() < 1e-4


def test_another_threshold_is_obeyed(drawn_xrays):
    xray = drawn_xrays[:1]
    for threshold in (0, 40):
        module = Preprocessing(PreprocessingConstants(edge_threshold=threshold))
        d = cv2.filter2D(
            xray[0].astype(np.int16), cv2.CV_16S, KERNEL, borderType=cv2.BORDER_REFLECT_101
        )
        kept = np.abs(d) > threshold
        # What is kept may still round to 0, never the other way round.
        assert not edge_maps(module, xray)[0][~kept].any()
        assert (edge_maps(module, xray)[0][kept] > 0).mean() > 0.9


xrays_of_few_levels = st.builds(
    # Ties and edges about the threshold come from few levels, and not from noise over all.
    lambda seed, levels, block: np.kron(
        np.random.default_rng(seed).choice(levels, (-(-224 // block),) * 2),
        np.ones((block, block), np.uint8),
    )[:224, :224].astype(np.uint8),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 255), min_size=1, max_size=6),
    st.integers(1, 64),
)


@given(xrays_of_few_levels)
@settings(max_examples=60, deadline=None)
def test_any_xray_gives_the_integers_of_the_definition(xray):
    module = Preprocessing(PreprocessingConstants())
    grey = torch.from_numpy(xray[None])
    np.testing.assert_array_equal(module.edge_map(grey)[0].numpy(), integer_edges(xray))
    expected = integer_resized(xray).astype(np.float32) / np.float32(65_280)
    np.testing.assert_array_equal(module.resized(grey)[0, 0].numpy(), expected)


@given(xrays_of_few_levels)
@settings(max_examples=30, deadline=None)
def test_any_xray_mirrored_or_turned_upside_down_has_its_edges_there(xray):
    """Both knees alike: the filter looks the same from the left, from the right and from below."""
    module = Preprocessing(PreprocessingConstants())
    four = np.stack([xray, xray[:, ::-1], xray[::-1], xray[::-1, ::-1]])
    edges = module.edge_map(torch.from_numpy(four)).numpy()
    for found, expected in zip(
        edges, (edges[0], edges[0][:, ::-1], edges[0][::-1], edges[0][::-1, ::-1]), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_it_adds_nothing_to_a_state_dict(module):
    assert module.state_dict() == {}
