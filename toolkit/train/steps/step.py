"""One step of a training: the same on every device, and free of any wait for it."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.networks.base import Classifier, device_of
from toolkit.train.recipes import Recipe
from toolkit.train.steps.lessons import Batch, Lessons
from toolkit.train.steps.optimiser import Optimiser
from toolkit.train.steps.plan import step_plan


class Sums(NamedTuple):
    """What the steps since the last `reset` came to; losses with the penalty.

    Attributes:
        correct: X-rays whose class was told, as the network stood at their step.
        loss: summed over the X-rays.
        last_loss: of the last step.
    """

    correct: int
    loss: float
    last_loss: float


@dataclass(frozen=True)
class Parts:
    """What a step changes and reads, all on one device.

    Attributes:
        classifier: whose network is trained.
        average: of its weights.
        heads: each branch's own opinion, which only training asks for; may be empty.
        lessons: that it goes through.
        class_weights: in the loss, float32 (C,), or None for equal ones.
    """

    classifier: Classifier
    average: nn.Module
    heads: nn.ModuleList
    lessons: Lessons
    class_weights: Tensor | None


class TrainingStep:
    """Changes weights, optimiser and average by one batch, and counts.

    Every result stays on the device, and nothing of one step's graph outlives it: a CUDA graph
    that is captured later must not meet what was made outside of it.
    """

    def __init__(self, parts: Parts, optimiser: Optimiser, recipe: Recipe) -> None:
        self.parts = parts
        self.optimiser = optimiser
        self.recipe = recipe
        device = device_of(parts.average)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._last_loss = torch.zeros((), dtype=torch.float64, device=device)

    def __call__(self, row: Tensor) -> None:
        """Make the step of a row of `toolkit.train.steps.plan.plan_epoch`, on the device."""
        plan = step_plan(row, self.parts.lessons.numbers)
        self.optimiser.scale(plan.rate)
        batch = self.parts.lessons.look_up(plan.lessons)
        loss, logits = self.loss(batch)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self._update_average(plan.newest)
        self._count(loss.detach(), logits.detach(), batch.labels)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss, float32 (), and the logits, (N, C), of X-rays as they are trained on."""
        parts, recipe, xray = self.parts, self.recipe, batch.xray
        with torch.autocast(xray.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            logits, branches = self._forward(xray)
        loss = self._cross_entropy(logits, batch.truth)
        for each in branches:
            loss = loss + recipe.branch_loss * self._cross_entropy(each, batch.truth)
        if recipe.l2:
            squares = torch._foreach_norm(list(parts.classifier.network.parameters()))
            loss = loss + recipe.l2 * torch.stack(squares).square().sum()
        return loss, logits

    def _forward(self, xray: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits, and those of each branch's head where there are heads."""
        classifier = self.parts.classifier
        if not classifier.has_features:
            with torch.no_grad():
                inputs = classifier.inputs(xray)
            return classifier.network(*inputs), []
        features = classifier.features(xray)
        heads = zip(self.parts.heads, features, strict=False)
        return classifier.joined(features), [head(functional.relu(each)) for head, each in heads]

    def reset(self) -> None:
        """Begin to count anew."""
        for each in (self._correct, self._loss, self._last_loss):
            each.zero_()

    def sums(self) -> Sums:
        """Return what was counted; the only wait for the device."""
        counts = torch.stack([self._correct.double(), self._loss, self._last_loss])
        correct, loss, last_loss = counts.tolist()
        return Sums(int(correct), loss, last_loss)

    def _cross_entropy(self, logits: Tensor, truth: Tensor) -> Tensor:
        if truth.is_floating_point():
            return functional.cross_entropy(logits.float(), truth)
        return cross_entropy(
            logits.float(), truth, self.parts.class_weights, self.recipe.label_smoothing
        )

    @torch.no_grad()
    def _update_average(self, newest: Tensor) -> None:
        if not self.recipe.average_decay:
            return
        average: list[Tensor] = list(self.parts.average.parameters())
        network = self.parts.classifier.network
        weights: list[Tensor] = list(network.parameters())
        shares = [newest] * len(weights)
        torch._foreach_lerp_(average, weights, shares)
        for mean, value in zip(self.parts.average.buffers(), network.buffers(), strict=True):
            # What batch norm gathers goes with the weights; its count of batches is a whole number.
            if mean.is_floating_point():
                mean.lerp_(value, newest)
            else:
                mean.copy_(value)

    def _count(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self._correct += (logits.argmax(dim=1) == labels).sum()
        self._loss += loss * len(labels)
        self._last_loss.copy_(loss)


def cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float
) -> Tensor:
    """Return PyTorch's mean cross entropy, to the same bits, float32 ().

    With weights and smoothing PyTorch's own asks the device which labels are to be ignored, and
    waits for the answer. Here there is none to be ignored.

    Args:
        logits: float32 (N, C).
        labels: int64 (N,).
        weights: of the classes, float32 (C,), or None.
        smoothing: share of the loss that all classes have, in [0, 1).
    """
    if weights is None or not smoothing:
        return functional.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    likelihoods = logits.log_softmax(dim=1)
    told = functional.nll_loss(likelihoods, labels, weights)
    spread = -(likelihoods * weights).sum(dim=1)
    even = spread.sum() / weights.gather(0, labels).sum()
    return (1 - smoothing) * told + even * (smoothing / len(weights))
