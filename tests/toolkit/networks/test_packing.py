"""What int8 is made of computes what the network does."""

from dataclasses import replace

import pytest
import torch

from export.convert.pipeline import Pipeline
from toolkit.networks.base import Classifier
from toolkit.networks.default import StudyNetwork
from toolkit.networks.equalisation import equalise
from toolkit.networks.packing import pack


def packed_of(pipeline):
    return pipeline.with_parts(*pack(pipeline.network, pipeline.preprocessing))


@pytest.fixture(scope="module")
def xrays(small):
    return torch.from_numpy(small.inputs.pixels)


def test_packing_is_exact_where_the_channels_share_one_mean(small, xrays):
    """Only then is there one level that stands for the zeros outside of the X-ray."""
    constants = replace(
        small.record.preprocessing, image_mean=(0.4,) * 3, image_std=(0.2, 0.25, 0.3)
    )
    pipeline = Pipeline(Classifier(StudyNetwork(constants), small.pipeline.network))
    with torch.no_grad():
        expected, found = pipeline(xrays), packed_of(pipeline)(xrays)
    assert (found[0] - expected[0]).abs().max() < 1e-4 * expected[0].abs().max()
    assert torch.equal(found[2], expected[2])


def test_equalisation_evens_the_ranges_out_and_keeps_the_function(small, xrays):
    packed = packed_of(small.pipeline.without_scope())
    equal = equalise(packed.network, packed.preprocessing, xrays)
    with torch.no_grad():
        inputs = packed.preprocessing(xrays)
        expected, found = packed.network(*inputs), equal(*inputs)
        spread = []
        for network in (packed.network, equal):
            maps = network.imagesClassifier[:2](inputs[0]).amax(dim=(0, 2, 3))
            spread.append(float(maps.clamp(min=1e-3).log().std()))
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert spread[1] < 0.8 * spread[0]
