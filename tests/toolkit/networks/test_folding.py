import copy

import pytest
import torch

from toolkit.model.manifest import PreprocessingConstants
from toolkit.networks.folding import logits_of
from toolkit.networks.preprocessing import Preprocessing
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.train.recipes import STUDY_EDGES


@pytest.fixture(params=[PreprocessingConstants(), STUDY_EDGES], ids=["default", "study"])
def both(request):
    """Logits and gradients of the folded network, and of the plain one in float64."""
    torch.manual_seed(3)
    network = IntermediarySpaceModel(6, 0.0)
    network.to(memory_format=torch.channels_last)
    plain = copy.deepcopy(network).double()
    preprocessing = Preprocessing(request.param)
    # Noise: where an X-ray is flat, neighbours tie, and rounding decides which the pooling takes.
    xray = torch.randint(0, 256, (5, 224, 224), dtype=torch.uint8)
    inputs = [each.double() for each in preprocessing(xray)]
    results = []
    for each, logits in (
        (network, logits_of(network, preprocessing, xray)),
        (plain, plain(*inputs)),
    ):
        (logits * torch.linspace(-1, 1, 20).reshape(5, 4)).sum().backward()
        results.append((logits, [each.grad for each in each.parameters()]))
    return results


def distance(mine, exact):
    return float((mine.detach().double() - exact.detach()).norm() / exact.detach().norm())


def test_the_folded_network_gives_the_logits_of_the_plain_one(both):
    (folded, _), (plain, _) = both
    assert distance(folded, plain) < 1e-5


def test_training_through_the_folded_network_has_the_same_gradients(both):
    (_, folded), (_, plain) = both
    assert len(folded) == 24
    for mine, exact in zip(folded, plain, strict=True):
        assert distance(mine, exact) < 1e-4
