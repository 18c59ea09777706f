"""What is known of any network, whatever it is made of."""

import torch
from torch import nn

from toolkit.networks.base import place


def test_a_network_is_placed_with_channels_last_where_its_weights_have_that_layout():
    flat, solid = nn.Conv2d(2, 4, 3), nn.Conv3d(2, 4, 3)
    network = nn.ModuleList([flat, solid, nn.Linear(4, 2)])
    before = [weight.clone() for weight in network.parameters()]
    assert place(network, torch.device("cpu")) is network
    assert flat.weight.is_contiguous(memory_format=torch.channels_last)
    assert solid.weight.is_contiguous()
    assert all(map(torch.equal, network.parameters(), before))
