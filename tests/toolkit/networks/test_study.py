import math

import pytest
import torch
from torch import nn

from toolkit.networks.base import Classifier, initialise
from toolkit.networks.default import StudyNetwork
from toolkit.networks.study import IntermediarySpaceModel


def inputs(batch=1):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((batch, 3, 256, 256), generator=generator)
    return image, torch.randn((batch, 1, 224, 224), generator=generator)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return IntermediarySpaceModel(28, 0.5, 4)


def test_the_published_network_has_386068_parameters(network):
    assert sum(map(torch.numel, network.parameters())) == 386_068


@pytest.mark.parametrize(("size", "classes"), [(8, 4), (1, 2), (5, 5)])
def test_every_size_has_the_parameters_of_its_layers(size, classes):
    s, wide = size, 2 * size
    image = (3 * 121 + 1) * wide + (wide * 25 + 1) * wide + (wide * 9 + 1) * wide
    image += (wide * 9 + 1) * s + (49 * s + 1) * wide
    edges = (121 + 1) * wide + (wide * 25 + 1) * wide + (wide * 9 + 1) * s + (36 * s + 1) * wide
    combiner = (4 * s + 1) * 3 * s + (3 * s + 1) * s + (s + 1) * classes
    network = IntermediarySpaceModel(size, 0.5, classes)
    assert sum(map(torch.numel, network.parameters())) == image + edges + combiner


def test_an_xray_costs_245730912_multiplications(network):
    total = 0

    def count(module, _, output):
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.in_channels * math.prod(module.kernel_size)
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    hooks = [each.register_forward_hook(count) for each in network.modules()]
    with torch.no_grad():
        network.eval()(*inputs())
    for hook in hooks:
        hook.remove()
    assert total == 245_730_912


def test_the_parts_are_named_as_in_the_studys_checkpoint(network):
    names = [name for name, _ in network.named_children()]
    assert names == ["imagesClassifier", "edgesClassifier", "outputCombiner"]
    assert {key.split(".")[0] for key in network.state_dict()} == set(names)


def test_the_layers_are_the_studys_in_its_order(network):
    kinds = {"Conv2d": "C", "ReLU": "R", "MaxPool2d": "P", "Dropout": "D", "Flatten": "F"}
    order = {
        name: "".join(kinds.get(type(layer).__name__, "L") for layer in part)
        for name, part in network.named_children()
    }
    assert order == {
        "imagesClassifier": "CRPDCRPDCRDCRPFDL",
        "edgesClassifier": "CRPDCRPDCRPFDL",
        "outputCombiner": "RDLRDLRDL",
    }


def test_dropout_rises_along_the_branches_to_the_main_one(network):
    rates = {
        name: [round(layer.p, 6) for layer in part if isinstance(layer, nn.Dropout)]
        for name, part in network.named_children()
    }
    assert rates == {
        "imagesClassifier": [0.1, 0.2, 0.3, 0.4],
        "edgesClassifier": [0.2, 0.3, 0.4],
        "outputCombiner": [0.5, 0.5, 0.5],
    }


@pytest.mark.parametrize(("batch", "size", "classes"), [(1, 28, 4), (3, 4, 5), (2, 1, 2)])
def test_two_inputs_of_two_sizes_give_one_row_of_logits_an_xray(batch, size, classes):
    network = IntermediarySpaceModel(size, 0.5, classes).eval()
    with torch.no_grad():
        logits = network(*inputs(batch))
    assert (logits.shape, logits.dtype) == ((batch, classes), torch.float32)


def test_dropout_is_live_in_training_only():
    torch.manual_seed(0)
    network = IntermediarySpaceModel(4, 0.5, 4)
    with torch.no_grad():
        assert not torch.equal(network.train()(*inputs()), network(*inputs()))
        assert torch.equal(network.eval()(*inputs()), network(*inputs()))


def test_both_inputs_reach_the_output(network):
    image, edges = (each.requires_grad_() for each in inputs())
    network.eval()(image, edges).sum().backward()
    assert image.grad.abs().sum() > 0
    assert edges.grad.abs().sum() > 0


def test_the_first_weights_hang_on_the_seed_alone():
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(IntermediarySpaceModel(2, 0.5, 4).state_dict())
    first, same, other = states
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


def spread(network):
    """Standard deviation over noise inputs of what the branches give."""
    image, edges = inputs(8)
    with torch.no_grad():
        given = network.imagesClassifier(image), network.edgesClassifier(edges)
    return [float(each.std(dim=0).mean()) for each in given]


def test_first_weights_after_he_carry_the_inputs_through_both_branches():
    torch.manual_seed(0)
    network = IntermediarySpaceModel(28, 0.0, 4).eval()
    before = spread(network)
    initialise(network)
    after = spread(network)
    assert max(before) < 0.05
    assert min(after) > 10 * max(before)
    assert all(not each.any() for name, each in network.named_parameters() if "bias" in name)


def test_hidden_weights_are_those_of_every_layer_but_the_last_to_run():
    network = IntermediarySpaceModel(2)
    classifier = Classifier(StudyNetwork(), network)
    found = classifier.hidden_weights(torch.zeros(1, 224, 224, dtype=torch.uint8))
    layers = [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert [id(each) for each in found] == [id(layer.weight) for layer in layers[:-1]]
