"""A folded network computes what the plain one does, in training and as it is exported."""

import copy

import pytest
import torch

from export.compare.samples import samples
from export.convert.pipeline import Pipeline
from toolkit.model.records import PreprocessingConstants
from toolkit.networks.base import Classifier
from toolkit.networks.default import StudyNetwork
from toolkit.networks.folding import GreyConv
from toolkit.networks.preprocessing import Preprocessing
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.train.recipes import STUDY_EDGES

CONSTANTS = {"default": PreprocessingConstants(), "study": STUDY_EDGES}
UNEQUAL = PreprocessingConstants(image_mean=(0.1, 0.5, 0.9), image_std=(0.05, 0.3, 1.0))


@pytest.fixture(params=CONSTANTS)
def both(request):
    """Logits and gradients of the folded network, and of the plain one in float64."""
    torch.manual_seed(3)
    network = IntermediarySpaceModel(6, 0.0)
    network.to(memory_format=torch.channels_last)
    plain = copy.deepcopy(network).double()
    preprocessing = Preprocessing(CONSTANTS[request.param])
    # Noise: where an X-ray is flat, neighbours tie, and rounding decides which the pooling takes.
    xray = torch.randint(0, 256, (5, 224, 224), dtype=torch.uint8)
    inputs = [tensor.double() for tensor in preprocessing(xray)]
    results = []
    for module, logits in (
        (network, Classifier(StudyNetwork(), network, preprocessing).logits(xray)),
        (plain, plain(*inputs)),
    ):
        (logits * torch.linspace(-1, 1, 20).reshape(5, 4)).sum().backward()
        results.append((logits, [parameter.grad for parameter in module.parameters()]))
    return results


def distance(mine, exact):
    return float((mine.detach().double() - exact.detach()).norm() / exact.detach().norm())


def test_training_through_the_folded_network_has_the_same_logits_and_gradients(both):
    (logits, folded), (expected, plain) = both
    assert distance(logits, expected) < 1e-5
    assert len(folded) == 24
    for mine, exact in zip(folded, plain, strict=True):
        assert distance(mine, exact) < 1e-4


@pytest.mark.parametrize("constants", CONSTANTS)
def test_folded_pipeline_gives_the_logits_of_the_unfolded_one_on_every_kind_of_input(
    small, constants
):
    plain = Pipeline(Classifier(StudyNetwork(CONSTANTS[constants]), small.pipeline.network))
    xray = torch.from_numpy(samples().pixels)
    with torch.no_grad():
        logits, probabilities, edge_map = plain.fast()(xray)
        expected = plain(xray)
    scale = expected[0].abs().amax(dim=1, keepdim=True).clamp(min=1.0)
    assert ((logits - expected[0]).abs() <= 2e-6 * scale).all()
    if constants != "study":  # whose logits are so large that a softmax of them is a step
        torch.testing.assert_close(probabilities, expected[1], rtol=0, atol=2e-6)
    assert torch.equal(edge_map, expected[2])


def test_folded_convolution_is_exact_along_the_borders_too(small):
    """In float64 nothing but the order of the sums is left, also where zeros are padded."""
    preprocessing = Preprocessing(UNEQUAL)
    conv = small.pipeline.network.imagesClassifier[0]
    folded = GreyConv(conv, preprocessing)
    assert folded.bias_map.shape == (1, conv.out_channels, 63, 63)
    grey = torch.rand(2, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        image = (grey - preprocessing.image_mean).double() / preprocessing.image_std.double()
        weight, bias = conv.weight.double(), conv.bias.double()
        expected = torch.nn.functional.conv2d(image, weight, bias, conv.stride, conv.padding)
        difference = (folded(grey) - expected).abs()
    bound = 1e-6 * float(expected.abs().max())
    assert float(difference.max()) <= bound
    # The border is what a bias of one number for each channel would get wrong.
    inner = folded.bias_map[:, :, 31:32, 31:32]
    assert float((folded.bias_map - inner).abs()[:, :, 0].max()) > 100 * bound


@pytest.mark.parametrize("name", ["image_mean", "image_std"])
def test_a_fold_of_other_constants_gives_other_logits(small, name):
    right = getattr(small.record.preprocessing, name)
    wrong = PreprocessingConstants(**{name: tuple(1.001 * one for one in right)})
    other = Classifier(StudyNetwork(wrong), small.pipeline.network)
    xray = torch.from_numpy(small.inputs.pixels)
    with torch.no_grad():
        logits, _, edge_map = Pipeline(other).fast()(xray)
    expected = torch.from_numpy(small.arrays["logits"])
    assert (logits - expected).abs().max() > 1e-5 * expected.abs().max().clamp(min=1)
    assert torch.equal(edge_map, torch.from_numpy(small.arrays["edge_map"]))


def test_folding_leaves_the_network_and_its_reference_as_they_were(small):
    before = {name: value.clone() for name, value in small.pipeline.state_dict().items()}
    small.pipeline.fast()
    after = small.pipeline.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert small.pipeline.network.imagesClassifier[0].in_channels == 3
