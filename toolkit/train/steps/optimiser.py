"""Adam for every weight, or Muon for the weight matrices and Adam for the rest."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from toolkit.train.recipes import Recipe
from toolkit.train.steps.muon import Muon, StackedMuon

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
        rest += heads.parameters()
        self._parts: list[tuple[torch.optim.Optimizer, float]] = [
            (_adam(rest, recipe.lr, recipe.weight_decay), recipe.lr)
        ]
        if self._weights:
            lr = _MUON_RATE * recipe.lr
            self._parts.append((_muon(self._matrices, lr, recipe.weight_decay), lr))

    @property
    def lr(self) -> float:
        """Adam's learning rate at present."""
        return float(self._parts[0][0].param_groups[0]["lr"])

    def scale(self, factor: Tensor) -> None:
        """Set the learning rates to `factor`, float64 () on the weights' device, times theirs."""
        for optimiser, lr in self._parts:
            for group in optimiser.param_groups:
                group["lr"].copy_(factor * lr)

    @torch.no_grad()
    def step(self) -> None:
        """Change the weights by their gradients."""
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            matrix.copy_(weight.flatten(1))
            # A layer may be left out in training, or in this step.
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        for optimiser, _ in self._parts:
            optimiser.step()
        for weight, matrix in zip(self._weights, self._matrices, strict=True):
            weight.copy_(matrix.view_as(weight))

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for each in self._weights:
            each.grad = None
        self._parts[0][0].zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on beside the weights and the rate."""
        return {"parts": [each.state_dict() for each, _ in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned, on whatever device that was.

        Raises:
            KeyError, TypeError, ValueError: it is of other weights, or damaged.
        """
        for (optimiser, _), saved in zip(self._parts, state["parts"], strict=True):
            own = optimiser.state_dict()["param_groups"]
            if [each["params"] for each in saved["param_groups"]] != [
                each["params"] for each in own
            ]:
                raise ValueError("a state of other weights")
            # The groups are this optimiser's own: they say how this device computes a step.
            optimiser.load_state_dict({"state": saved["state"], "param_groups": own})


def _adam(weights: list[nn.Parameter], lr: float, decay: float) -> torch.optim.Optimizer:
    on_gpu = weights[0].is_cuda
    # A CUDA graph can hold only one that never asks the device for a number.
    adam = torch.optim.AdamW(
        weights, lr, weight_decay=decay, fused=on_gpu or None, capturable=on_gpu
    )
    return _rate_on_device(adam, lr)


def _muon(matrices: list[nn.Parameter], lr: float, decay: float) -> torch.optim.Optimizer:
    kind = StackedMuon if matrices[0].is_cuda else Muon
    return _rate_on_device(kind(matrices, lr, decay), lr)


def _rate_on_device(optimiser: torch.optim.Optimizer, lr: float) -> torch.optim.Optimizer:
    """Make the learning rate a tensor, which a step reads anew each time that it is repeated."""
    for group in optimiser.param_groups:
        device = group["params"][0].device
        # Adam's one kernel for all weights takes no other precision.
        precision = torch.float32 if device.type == "cuda" else torch.float64
        group["lr"] = torch.tensor(lr, dtype=precision, device=device)
    return optimiser
