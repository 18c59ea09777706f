import pytest
import torch

from toolkit.folding import logits_of
from toolkit.manifest import PreprocessingConstants
from toolkit.network import IntermediarySpaceModel
from toolkit.preprocessing import Preprocessing
from toolkit.recipes import STUDY_EDGES


@pytest.fixture(params=[PreprocessingConstants(), STUDY_EDGES], ids=["default", "study"])
def both(request, drawn_xrays):
    """Logits of the folded and of the plain network, and the gradients of all weights by each."""
    torch.manual_seed(3)
    network = IntermediarySpaceModel(6, 0.0)
    network.to(memory_format=torch.channels_last)
    preprocessing = Preprocessing(request.param)
    xray = torch.from_numpy(drawn_xrays[:5])
    results = []
    for logits in (logits_of(network, preprocessing, xray), network(*preprocessing(xray))):
        network.zero_grad()
        (logits * torch.linspace(-1, 1, 20).reshape(5, 4)).sum().backward()
        results.append((logits, [each.grad.clone() for each in network.parameters()]))
    return results


def test_the_folded_network_gives_the_logits_of_the_plain_one(both):
    (folded, _), (plain, _) = both
    assert float((folded - plain).abs().max()) < 1e-5 * float(plain.abs().max())
    assert plain.std() > 1e-3


def test_training_through_the_folded_network_has_the_same_gradients(both):
    (_, folded), (_, plain) = both
    for mine, theirs in zip(folded, plain, strict=True):
        # Where two pixels all but tie, the maximum takes one or the other.
        assert 0 < float(theirs.norm())
        assert float((mine - theirs).norm()) < 1e-3 * float(theirs.norm())
