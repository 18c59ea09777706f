"""Which weights are stepped by which optimiser, and how far."""

import copy

import pytest
import torch
from torch import nn

from toolkit.networks.base import initialise
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.train.recipes import recipe
from toolkit.train.steps.muon import Muon, StackedMuon, orthogonalised
from toolkit.train.steps.optimiser import Optimiser

LR = 1e-3
DECAY = 0.05


def network():
    torch.manual_seed(0)
    made = IntermediarySpaceModel(4, 0.0, 4)
    initialise(made)
    return made.to(memory_format=torch.channels_last)


def factor(value):
    return torch.tensor(value, dtype=torch.float64)


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
        optimiser.scale(factor(1.0))
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
    optimiser.scale(factor(0.25))
    assert optimiser.lr == pytest.approx(0.25 * LR)
    optimiser.zero_grad()
    assert all(each.grad is None for each in [*made.parameters(), *heads.parameters()])


def matrices(*shapes):
    generator = torch.Generator().manual_seed(2)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


@pytest.mark.parametrize(
    "shapes", [[(6, 40), (6, 40)], [(6, 40), (9, 5), (40, 6), (1, 3)]], ids=["alike", "unlike"]
)
@pytest.mark.parametrize("kind", [Muon, StackedMuon])
def test_muon_steps_as_pytorchs_does_and_reads_its_state(kind, shapes):
    theirs, mine = matrices(*shapes), matrices(*shapes)
    muon = torch.optim.Muon(theirs, lr=0.01, weight_decay=DECAY)
    own = kind(mine, lr=0.01, weight_decay=DECAY)
    own.param_groups[0]["lr"] = torch.tensor(0.01)
    generator = torch.Generator().manual_seed(3)
    for step in range(4):
        for first, second in zip(theirs, mine, strict=True):
            first.grad = torch.randn(first.shape, generator=generator)
            second.grad = first.grad.clone()
        muon.step()
        own.step()
        if step == 1:
            own.load_state_dict(copy.deepcopy(muon.state_dict()))
    for first, second, start in zip(theirs, mine, matrices(*shapes), strict=True):
        # PyTorch's products are in bfloat16, and summed in another order.
        torch.testing.assert_close(second, first, rtol=0, atol=0.02 * 0.01 * 4)
        assert (second - start).norm() > 10 * (second - first).norm()


@pytest.mark.parametrize("kind", [Muon, StackedMuon])
def test_a_weight_without_a_gradient_stays_as_it_is(kind, monkeypatch):
    monkeypatch.setattr("toolkit.train.steps.optimiser.Muon", kind)
    made = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 2))
    before = copy.deepcopy(made)
    optimiser = Optimiser(made, nn.ModuleList(), recipe("default", optimiser="muon"))
    optimiser.step()
    made[1:](torch.randn(3, 5)).sum().backward()
    optimiser.step()
    assert torch.equal(made[0].weight, before[0].weight)
    assert not torch.equal(made[1].weight, before[1].weight)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float32])
def test_a_stack_of_matrices_is_orthogonalised_as_each_would_be_alone(precision):
    given = [each.detach() for each in matrices((6, 40), (12, 9), (2, 2))]
    settings = ((3.4445, -4.7750, 2.0315), 5, 1e-7, precision)
    for together, matrix in zip(orthogonalised(given, *settings), given, strict=True):
        alone = orthogonalised([matrix], *settings)[0]
        assert together.shape == matrix.shape
        torch.testing.assert_close(together, alone, rtol=0, atol=0.02)
        assert torch.linalg.svdvals(together).max() < 1.4


def test_a_state_of_other_weights_is_refused():
    chosen = recipe("default", optimiser="muon")
    state = Optimiser(network(), nn.ModuleList(), chosen).state_dict()
    with pytest.raises(ValueError, match="other weights"):
        Optimiser(network(), nn.ModuleList([nn.Linear(8, 4)]), chosen).load_state_dict(state)
