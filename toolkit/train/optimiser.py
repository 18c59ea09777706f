"""Adam for every weight, or Muon for the weight matrices and Adam for the rest; and their rate."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.train.recipes import Recipe

# Its steps have singular values near 1, so that its rates are of another size.
_MUON_RATE = 10


class Optimiser:
    """Steps the weights of a network and of what only training has.

    Muon (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024) makes
    every singular value of a step the same; a convolution's weight counts as a matrix of one row
    for each output channel. Biases, the last layer and the branches' heads are left to AdamW.

    Args:
        network: whose last layer gives the logits.
        heads: more layers that give logits.
        recipe: of which `optimiser`, `lr` and `weight_decay` are used.
        hidden: weights of the layers before the last; those of all modules in their order but of
            the last if not given.
    """

    def __init__(
        self,
        network: nn.Module,
        heads: nn.Module,
        recipe: Recipe,
        hidden: Sequence[Tensor] | None = None,
    ) -> None:
        if hidden is None:
            layers = [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
            hidden = [layer.weight for layer in layers[:-1]]
        self._weights = [*hidden] if recipe.optimiser == "muon" else []
        self._matrices = [nn.Parameter(each.detach().flatten(1).clone()) for each in self._weights]
        owned = {id(each) for each in self._weights}
        rest = [each for each in network.parameters() if id(each) not in owned]
        decay = recipe.weight_decay
        self._parts: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.AdamW([*rest, *heads.parameters()], weight_decay=decay), recipe.lr)
        ]
        if self._weights:
            muon = torch.optim.Muon(self._matrices, weight_decay=decay)
            self._parts.append((muon, _MUON_RATE * recipe.lr))
        self.steps = 0

    @property
    def lr(self) -> float:
        """Adam's learning rate at present."""
        return float(self._parts[0][0].param_groups[0]["lr"])

    def scale(self, factor: float) -> None:
        """Set the learning rates to `factor` times the recipe's."""
        for optimiser, lr in self._parts:
            for group in optimiser.param_groups:
                group["lr"] = lr * factor

    @torch.no_grad()
    def step(self) -> None:
        """Change the weights by their gradients."""
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            assert weight.grad is not None
            matrix.copy_(weight.flatten(1))
            matrix.grad = weight.grad.flatten(1)
        for optimiser, _ in self._parts:
            optimiser.step()
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            weight.copy_(matrix.view_as(weight))
        self.steps += 1

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for each in self._weights:
            each.grad = None
        self._parts[0][0].zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on beside the weights."""
        return {"steps": self.steps, "parts": [each.state_dict() for each, _ in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            KeyError, TypeError, ValueError: it is of other weights, or damaged.
        """
        for (optimiser, _), each in zip(self._parts, state["parts"], strict=True):
            optimiser.load_state_dict(each)
        self.steps = int(state["steps"])


def lr_factor(recipe: Recipe, epoch: int, progress: float) -> float:
    """Return what the highest learning rate is multiplied with.

    Args:
        recipe: whose schedule it is.
        epoch: the current one, from 0.
        progress: share of all steps already made, in [0, 1).
    """
    if recipe.schedule == "exponential":
        return float(recipe.lr_decay ** (epoch / 100))
    warm_up = 0.1
    if progress < warm_up:
        return 0.02 + 0.98 * progress / warm_up
    falling = (progress - warm_up) / (1 - warm_up)
    return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * falling, dtype=torch.float64))))
