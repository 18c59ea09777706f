"""Steps from an epoch's rows of numbers come to the bits of a loop written out."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from toolkit.networks.folding import features_of
from toolkit.train.dataset import class_weights
from toolkit.train.recipes import PRESETS, recipe
from toolkit.train.steps.augmentation import augment, draw
from toolkit.train.steps.lessons import LabelledLessons
from toolkit.train.steps.muon import Muon, StackedMuon
from toolkit.train.steps.plan import lr_factor, plan_epoch, step_plan
from toolkit.train.steps.step import cross_entropy
from toolkit.train.training import Training

CPU = torch.device("cpu")
SETTINGS = {"layer_size": 5, "epochs": 2, "batch_size": 7, "dropout": 0.5}


def plain_loop(training, dataset):
    """Train a new Training's weights, rate and draws at hand when they are needed."""
    chosen, network, heads = training.recipe, training.network, training.heads
    layers = [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    hidden = [each.weight for each in layers[:-1]] if chosen.optimiser == "muon" else []
    rest = [each for each in network.parameters() if not any(each is one for one in hidden)]
    adam = torch.optim.AdamW([*rest, *heads.parameters()], weight_decay=chosen.weight_decay)
    matrices = [nn.Parameter(each.detach().flatten(1).clone()) for each in hidden]
    muon = Muon(matrices, weight_decay=chosen.weight_decay) if hidden else None
    indices = dataset.parts["train"]
    weights = class_weights(chosen.class_weights, dataset.labels[indices], 4)
    generator = torch.Generator().manual_seed(0)
    steps = 0
    for epoch in range(chosen.epochs):
        order = indices[torch.randperm(len(indices), generator=generator)]
        batches = torch.split(order, chosen.batch_size)
        for step, batch in enumerate(batches):
            progress = (epoch + step / len(batches)) / chosen.epochs
            rate = lr_factor(chosen, epoch, progress)
            adam.param_groups[0]["lr"] = chosen.lr * rate
            xray = dataset.pixels[batch]
            if chosen.augmentation:
                xray = augment(xray, chosen.augmentation, draw(len(batch), generator))
            with torch.autocast("cpu", torch.bfloat16, enabled=chosen.precision == "bf16"):
                features = features_of(network, training.preprocessing, xray)
                outputs = [network.joined(*features)]
                outputs += [head(each.relu()) for head, each in zip(heads, features, strict=False)]
            loss = 0.0
            for output, share in zip(outputs, [1, *[chosen.branch_loss] * 2], strict=False):
                loss = loss + share * functional.cross_entropy(
                    output.float(),
                    dataset.labels[batch],
                    weight=weights,
                    label_smoothing=chosen.label_smoothing,
                )
            if chosen.l2:
                norms = torch._foreach_norm(list(network.parameters()))
                loss = loss + chosen.l2 * torch.stack(norms).square().sum()
            network.zero_grad()
            heads.zero_grad()
            loss.backward()
            adam.step()
            if muon:
                muon.param_groups[0]["lr"] = 10 * chosen.lr * rate
                for matrix, weight in zip(matrices, hidden, strict=True):
                    matrix.grad = weight.grad.flatten(1)
                muon.step()
            steps += 1
            with torch.no_grad():
                for matrix, weight in zip(matrices, hidden, strict=True):
                    weight.copy_(matrix.view_as(weight))
                share = 1 - min(chosen.average_decay, (1 + steps) / (10 + steps))
                if chosen.average_decay:
                    for mean, weight in zip(
                        training.average.parameters(), network.parameters(), strict=True
                    ):
                        mean.lerp_(weight, share)


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("default", {}),
        ("default", {"precision": "bf16", "epochs": 1, "batch_size": 14}),
        ("study", {"dropout_epochs": 9}),
    ],
    ids=["default", "bf16", "study"],
)
def test_steps_come_to_the_bits_of_a_plain_loop(tiny, preset, changes):
    chosen = recipe(preset, **(SETTINGS | changes))
    plain = Training(tiny, chosen, 0, CPU)
    plain_loop(plain, tiny)
    training = Training(tiny, chosen, 0, CPU)
    for _ in range(chosen.epochs):
        training.advance()
    for mine, theirs in ((training.network, plain.network), (training.average, plain.average)):
        for first, second in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(first, second)


def test_a_row_says_all_of_its_step_to_the_digit(tiny):
    chosen = recipe("default", **SETTINGS)
    indices = tiny.parts["train"]
    lessons = LabelledLessons(tiny.pixels, tiny.labels, chosen, mirror=True)
    rows = plan_epoch(chosen, lessons, indices, torch.Generator().manual_seed(3), 1)
    generator = torch.Generator().manual_seed(3)
    order = indices[torch.randperm(len(indices), generator=generator)]
    plans = [step_plan(row, lessons.numbers) for row in rows]
    assert torch.equal(torch.cat([plan.lessons[0].long() for plan in plans]), order)
    for step, plan in enumerate(plans):
        drawn = draw(plan.lessons.shape[1], generator)
        assert torch.equal(plan.lessons[1:].float(), drawn)
        assert float(plan.rate) == lr_factor(chosen, 1, (1 + step / len(plans)) / 2)
    assert {plan.lessons.shape[1] for plan in plans[:-1]} == {7}


@pytest.mark.parametrize(
    ("size", "lengths"), [(4, [4, 5]), (5, [5, 4]), (8, [9]), (1, [1] * 9), (20, [9])]
)
def test_a_last_xray_by_itself_is_trained_on_with_the_batch_before_it(tiny, size, lengths):
    chosen = recipe("default", batch_size=size)
    lessons = LabelledLessons(tiny.pixels, tiny.labels, chosen, mirror=True)
    generator = torch.Generator().manual_seed(0)
    rows = plan_epoch(chosen, lessons, torch.arange(9), generator, 0)
    lessons = [step_plan(row, lessons.numbers).lessons for row in rows]
    assert [each.shape[1] for each in lessons] == lengths
    assert sorted(torch.cat([each[0] for each in lessons]).tolist()) == [*range(9)]


def operations(call):
    """The names of all that PyTorch does in a call, below what Python sees too."""
    call()  # what is made once is not of the step
    with profile(activities=[ProfilerActivity.CPU]) as run:
        call()
    return {event.key for event in run.key_averages()}


# What a CPU must ask of a GPU before it can go on, so that no CUDA graph can hold it.
WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_never_waits_for_its_device(tiny, preset):
    training = Training(tiny, recipe(preset, **SETTINGS), 0, CPU)
    lessons = training.step.parts.lessons
    (row, *_) = plan_epoch(training.recipe, lessons, training.indices, training.generator, 0)
    # On a GPU Adam is another; on a CPU PyTorch's Muon stands in for the one below.
    training.step.optimiser = SimpleNamespace(
        scale=lambda _: None, zero_grad=training.network.zero_grad, step=lambda: None
    )
    done = operations(lambda: training.step(row))
    assert "aten::convolution_backward" in done
    assert not done & WAITS


def test_muon_over_a_stack_never_waits_for_its_device():
    matrices = [nn.Parameter(torch.randn(shape)) for shape in ((6, 40), (9, 5))]
    muon = StackedMuon(matrices, lr=0.1, weight_decay=0.1)
    muon.param_groups[0]["lr"] = torch.tensor(0.1)
    for each in matrices:
        each.grad = torch.randn_like(each)
    done = operations(muon.step)
    assert "aten::bmm" in done
    assert not done & WAITS


@pytest.mark.parametrize("smoothing", [0.0, 0.05])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0, 0.25])])
def test_cross_entropy_and_its_gradient_are_pytorchs_to_the_bit(smoothing, weights):
    logits = torch.randn(23, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(23) % 4
    found = []
    for function in (
        lambda given: cross_entropy(given, labels, weights, smoothing),
        lambda given: functional.cross_entropy(given, labels, weights, label_smoothing=smoothing),
    ):
        given = logits.clone().requires_grad_()
        loss = function(given)
        loss.backward()
        found.append((loss, given.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
