"""Novelty: a Gaussian's distance, small on X-rays as in training, large on what is none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from toolkit.errors import CheckpointError
from toolkit.model.equivalence import TensorSpec
from toolkit.model.files import ModelFiles
from toolkit.model.records import ScopeRecord
from toolkit.model.tolerance import NOVELTY_TOLERANCE
from toolkit.networks.base import Classifier, initialise
from toolkit.networks.default import StudyNetwork
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.train import novelty as novelties


def maps_of(rows):
    """Maps of one channel and four rows of pixels, for each four numbers of (N, D)."""
    return [[each.reshape(-1, 1, 4, 1).expand(-1, 1, 4, 4)] for each in rows.split(4, dim=1)]


def gaussian_rows(count, width):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixing


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    made = IntermediarySpaceModel(6, 0.5, 4)
    initialise(made)
    return Classifier(StudyNetwork(), made).eval()


def test_novelty_is_the_distance_in_a_gaussian_with_one_variance_for_the_lesser_axes():
    rows = gaussian_rows(500, 64)
    summaries = novelties.summary(maps_of(rows))
    found = novelties.gaussian(summaries)
    values, vectors = np.linalg.eigh(np.cov(summaries.numpy().T))
    # Each number in a band, and the means of each four.
    lesser = 64 + 16 - novelties.AXES
    variances = np.concatenate([np.full(lesser, values[:lesser].mean()), values[lesser:]])
    offsets = summaries.numpy() - summaries.numpy().mean(axis=0)
    expected = np.sqrt((((offsets @ vectors) ** 2) / variances).mean(axis=1))
    novelty = found(maps_of(rows.float())).numpy()
    np.testing.assert_allclose(novelty, expected, rtol=1e-4)


def test_summaries_hold_the_mean_of_every_map_and_the_first_ones_from_top_to_bottom():
    first = torch.zeros(1, 1, 8, 3)
    first[0, 0, :2], first[0, 0, 6:] = 1.0, 3.0
    second = torch.full((1, 2, 2, 2), 5.0)
    found = novelties.summary([[first, second], [first]])
    assert found.tolist() == [[1.0, 5.0, 5.0, 1.0, 1, 0, 0, 3, 1, 0, 0, 3]]


def test_xrays_as_in_training_are_in_scope_and_what_is_none_is_not(classifier, drawn_xrays, tiny):
    found, limit, within = novelties.fit(classifier, tiny)
    assert within >= novelties.PASSING
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (8, 224, 224), np.uint8)
    stripes = np.tile(np.arange(224, dtype=np.uint8) // 8 % 2 * 255, (4, 224, 1))
    shuffled = generator.permuted(drawn_xrays[:8].reshape(8, -1), axis=1).reshape(8, 224, 224)
    for kind in (noise, stripes, shuffled, np.zeros((1, 224, 224), np.uint8)):
        assert (novelty_of(found, classifier, kind) > limit).all()


@torch.no_grad()
def novelty_of(found, classifier, pixels):
    inputs = classifier.inputs(torch.from_numpy(pixels))
    return found(novelties.run_with_maps(classifier, inputs)[1])


def test_maps_are_taken_on_the_way_to_the_very_same_logits(classifier, drawn_xrays):
    inputs = classifier.inputs(torch.from_numpy(drawn_xrays[:3]))
    with torch.no_grad():
        logits, maps = novelties.run_with_maps(classifier, inputs)
        assert torch.equal(logits, classifier.network(*inputs))
    image, edges = ([tuple(each.shape[1:]) for each in branch] for branch in maps)
    assert image == [(12, 31, 31), (12, 15, 15), (6, 7, 7)]
    assert edges == [(12, 27, 27), (12, 13, 13), (6, 6, 6)]


def test_a_network_that_gives_the_same_for_everything_has_a_finite_novelty(tiny):
    dead = IntermediarySpaceModel(2, 0.5, 4).eval()
    with torch.no_grad():
        for each in dead.parameters():
            each.zero_()
    found, limit, within = novelties.fit(Classifier(StudyNetwork(), dead), tiny)
    assert limit == 0 and within == 1
    assert all(each.isfinite().all() for each in found.state_dict().values())


def test_maps_that_hardly_vary_are_measured_no_finer_than_they_are_rounded():
    torch.manual_seed(0)
    maps = 1 + 1e-6 * torch.randn(200, 6, 4, 4)
    measure = novelties.gaussian(novelties.summary([[maps]]).double())
    # PyTorch and ONNX Runtime differ by some units of the seventh digit.
    rounded = maps * (1 + 3e-7 * torch.randn(200, 6, 1, 1).sign())
    difference = measure([[rounded]]) - measure([[maps]])
    assert difference.abs().max() < NOVELTY_TOLERANCE


def test_a_scope_comes_back_from_its_file_and_a_changed_one_is_refused(classifier, tiny, tmp_path):
    found, limit, within = novelties.fit(classifier, tiny)
    files = ModelFiles(tmp_path, "m")
    record = ScopeRecord(novelties.save(found, files), "val", 1, limit, within)
    again = novelties.load(files, record)
    for name, value in found.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    files.path("scope").write_bytes(files.path("scope").read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="differs"):
        novelties.load(files, record)
    files.path("scope").unlink()
    with pytest.raises(CheckpointError, match=r"m\.scope\.pt"):
        novelties.load(files, record)


class Plain:
    """A definition of whatever module, over a grey input."""

    size, views = 16, ()
    inputs = (TensorSpec("grey", "float32", ("batch", 1, 16, 16)),)

    def preprocessing(self):
        return Grey()


class Grey(nn.Module):
    def forward(self, xray):
        return xray.float().unsqueeze(1)


def test_of_another_network_the_last_maps_of_each_resolution_are_taken():
    layers = nn.Sequential(
        *(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(2, 3, 1)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)),
    )
    inputs = (torch.rand(2, 1, 16, 16),)
    _, (maps,) = novelties.run_with_maps(Classifier(Plain(), layers), inputs)
    assert [tuple(each.shape) for each in maps] == [(2, 2, 16, 16), (2, 3, 4, 4)]
    assert torch.equal(maps[1], layers[:5](*inputs))
    small = [each[:, :, :2, :2] for each in maps]
    assert novelties.summary([small]).isfinite().all(), "of fewer rows than bands"


class Patches(nn.Module):
    """The whole X-ray, and its four quarters as if they were X-rays, by one convolution each."""

    def __init__(self):
        super().__init__()
        self.part, self.whole = nn.Conv2d(1, 2, 3), parametrizations.weight_norm(nn.Conv2d(1, 3, 3))
        self.last = nn.Linear(5, 4)

    def forward(self, grey):
        parts = grey.unfold(2, 8, 8).unfold(3, 8, 8).reshape(-1, 1, 8, 8)
        means = self.part(parts).mean((2, 3)).unflatten(0, (-1, 4)).mean(1)
        return self.last(torch.cat([means, self.whole(grey).mean((2, 3))], dim=1))


@pytest.mark.parametrize("count", [1, 3])
def test_only_maps_of_each_xray_are_taken_not_of_its_patches_nor_a_computed_weight(count):
    network, inputs = Patches().eval(), (torch.rand(count, 1, 16, 16),)
    _, (maps,) = novelties.run_with_maps(Classifier(Plain(), network), inputs)
    assert len(maps) == 1 and torch.equal(maps[0], network.whole(*inputs))


def test_a_network_without_maps_has_no_scope(tiny):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(256, 4))
    small = replace(tiny, pixels=tiny.pixels[:, ::14, ::14].contiguous())
    assert novelties.fit(Classifier(Plain(), flat), small) is None
