"""Which weights are stepped by which optimiser, and how far."""

import copy

import pytest
import torch
from torch import nn

from toolkit.networks.base import initialise
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.train.optimiser import Optimiser
from toolkit.train.recipes import recipe

LR = 1e-3
DECAY = 0.05


def network():
    torch.manual_seed(0)
    made = IntermediarySpaceModel(4, 0.0, 4)
    initialise(made)
    return made.to(memory_format=torch.channels_last)


def gradients(modules):
    generator = torch.Generator().manual_seed(1)
    for each in modules:
        for parameter in each.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def stepped(kind, steps=1):
    """A network and heads before and after steps by given gradients."""
    made, heads = network(), nn.ModuleList([nn.Linear(8, 4)])
    before = copy.deepcopy((made, heads))
    chosen = recipe("default", optimiser=kind, lr=LR, weight_decay=DECAY)
    optimiser = Optimiser(made, heads, chosen)
    for _ in range(steps):
        optimiser.scale(1.0)
        gradients((made, heads))
        optimiser.step()
    return before, (made, heads), optimiser


def by_adamw(modules, steps):
    parameters = [each for module in modules for each in module.parameters()]
    adamw = torch.optim.AdamW(parameters, lr=LR, weight_decay=DECAY)
    for _ in range(steps):
        gradients(modules)
        adamw.step()


def test_adam_steps_every_weight():
    before, after, _ = stepped("adam", steps=3)
    by_adamw(before, 3)
    for expected, found in zip(before, after, strict=True):
        for mine, theirs in zip(expected.parameters(), found.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-7)


def test_muon_steps_hidden_weights_equally_in_every_direction():
    (before, _), (after, _), _ = stepped("muon")
    layers = [
        pair
        for pair in zip(before.modules(), after.modules(), strict=True)
        if isinstance(pair[0], nn.Conv2d | nn.Linear)
    ]
    for old, new in layers[:-1]:
        step = (old.weight * (1 - 10 * LR * DECAY) - new.weight).detach().flatten(1)
        rows, columns = step.shape
        singular = torch.linalg.svdvals(step) / (10 * LR * max(1, rows / columns) ** 0.5)
        # Five Newton-Schulz steps bring them near 1, not to it.
        assert singular.max() < 1.4 and singular[: min(rows, columns) // 2].min() > 0.5


def test_beside_muon_biases_the_last_layer_and_the_heads_are_stepped_by_adam():
    before, after, _ = stepped("muon", steps=3)
    by_adamw(before, 3)
    last = len(list(before[0].parameters())) - 2
    for index, (mine, theirs) in enumerate(
        zip(before[0].parameters(), after[0].parameters(), strict=True)
    ):
        if mine.ndim == 1 or index >= last:
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-7)
        else:
            assert (mine - theirs).abs().max() > LR
    for mine, theirs in zip(before[1].parameters(), after[1].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-7)


def test_rates_are_scaled_and_gradients_forgotten():
    _, (made, heads), optimiser = stepped("muon")
    optimiser.scale(0.25)
    assert optimiser.lr == pytest.approx(0.25 * LR)
    assert optimiser.steps == 1
    optimiser.zero_grad()
    assert all(each.grad is None for each in [*made.parameters(), *heads.parameters()])
