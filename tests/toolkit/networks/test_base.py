"""What is known of any network, whatever it is made of."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from toolkit.networks.base import Classifier, initialise, place
from toolkit.networks.default import StudyNetwork
from toolkit.networks.recording import recording


def test_a_network_is_placed_with_channels_last_where_its_weights_have_that_layout():
    flat, solid = nn.Conv2d(2, 4, 3), nn.Conv3d(2, 4, 3)
    network = nn.ModuleList([flat, solid, nn.Linear(4, 2)])
    before = [weight.clone() for weight in network.parameters()]
    assert place(network, torch.device("cpu")) is network
    assert flat.weight.is_contiguous(memory_format=torch.channels_last)
    assert solid.weight.is_contiguous()
    assert all(map(torch.equal, network.parameters(), before))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_what_computes_a_layers_weight_is_no_layer_and_the_weight_is_not_stepped_by_itself():
    layers = {
        "former": nn.utils.weight_norm(nn.Conv2d(1, 4, 3)),
        "later": parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)),
        "plain": nn.Conv2d(4, 4, 3),
        "pool": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "last": parametrizations.weight_norm(nn.Linear(4, 4)),
        "end": nn.Linear(4, 2),
    }
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    definition = SimpleNamespace(size=16, inputs=(), views=())
    classifier = Classifier(definition, network, nn.Unflatten(1, (1, 16)))
    assert [*classifier.layers()] == [
        *("former", "later", "plain", "pool.0", "pool.1", "last", "end"),
    ]
    found = classifier.hidden_weights(torch.randn(1, 16, 16))
    assert len(found) == 1 and found[0] is layers["plain"].weight


class Twice(nn.Module):
    """A layer under two names, which tells what it was recorded to give."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 2)
        self.other = nn.ModuleDict({"name": self.first})

    def forward(self, values):
        with recording({"first": self.first}) as runs:
            self.other["name"](values)
        (run,) = runs
        return run.given


def test_a_layer_with_two_names_is_recorded_by_its_first_where_it_is_exported_too():
    module, values = Twice().eval(), torch.randn(5, 3)
    program = torch.export.export(module, (values,), strict=False)
    torch.testing.assert_close(program.module()(values), module(values))


def test_the_preprocessing_stays_the_same_while_the_network_is_trained():
    classifier = Classifier(StudyNetwork(), nn.Linear(2, 2), nn.Dropout(0.5)).train()
    assert classifier.network.training and not classifier.preprocessing.training


def test_a_network_without_layers_to_draw_stays_as_it_is():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten())
    before = [weight.clone() for weight in network.parameters()]
    initialise(network)
    assert all(map(torch.equal, network.parameters(), before))
