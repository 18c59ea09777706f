"""Muon, as a processor and as a GPU compute it soonest."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_Coefficients = tuple[float, float, float]


class Muon(torch.optim.Muon):
    """PyTorch's Muon in float32: most processors have no products of bfloat16, and imitate them.

    Its state is that of its parent. A matrix without a gradient stays as it is. `lr` of a group may
    be a tensor () that changes.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Change the matrices by their gradients."""
        assert closure is None
        for group in self.param_groups:
            self._step_group(group)

    def _step_group(self, group: dict[str, Any]) -> None:
        matrices = [each for each in group["params"] if each.grad is not None]
        if not matrices:
            return
        gradients, momentum = [each.grad for each in matrices], group["momentum"]
        for each in matrices:
            if not self.state[each]:
                self.state[each]["momentum_buffer"] = torch.zeros_like(each)
        buffers = [self.state[each]["momentum_buffer"] for each in matrices]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        looking_ahead = torch._foreach_lerp(gradients, buffers, momentum)
        updates = self._orthogonalise(
            looking_ahead, group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        ratios = [-math.sqrt(max(1.0, len(each) / each.shape[1])) for each in matrices]
        steps = torch._foreach_mul(updates, ratios)
        torch._foreach_mul_(steps, group["lr"])
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, steps)

    def _orthogonalise(
        self, matrices: Sequence[Tensor], coefficients: _Coefficients, steps: int, eps: float
    ) -> list[Tensor]:
        return [
            update
            for each in matrices
            for update in orthogonalised([each], coefficients, steps, eps, torch.float32)
        ]


class StackedMuon(Muon):
    """Muon over one stack of matrices: a GPU takes as long for many small products as for one.

    A step waits for nothing, so that a CUDA graph can hold it.
    """

    def _orthogonalise(
        self, matrices: Sequence[Tensor], coefficients: _Coefficients, steps: int, eps: float
    ) -> list[Tensor]:
        return orthogonalised(matrices, coefficients, steps, eps, torch.bfloat16)


def orthogonalised(
    matrices: Sequence[Tensor],
    coefficients: _Coefficients,
    steps: int,
    eps: float,
    precision: torch.dtype,
) -> list[Tensor]:
    """Return matrices whose singular values were brought near 1, float32.

    Newton-Schulz iteration as in Jordan et al., "Muon", 2024. Each matrix lies in a corner of one
    of zeros, as wide and as high as the largest: those stay zeros, and add nothing to a product.

    Args:
        matrices: of any shapes, float32.
        coefficients: a, b, c of a step X to a X + (b A + c A A) X with A = X X^T.
        steps: of the iteration.
        eps: smallest norm that a matrix is divided by.
        precision: of the products.
    """
    a, b, c = coefficients
    wide = [each.mT if len(each) > each.shape[1] else each for each in matrices]
    shape = (max(len(each) for each in wide), max(each.shape[1] for each in wide))
    stack = torch.zeros(len(wide), *shape, dtype=precision, device=wide[0].device)
    for corner, each in zip(stack, wide, strict=True):
        corner[: len(each), : each.shape[1]].copy_(each)
    stack /= stack.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = stack @ stack.mT
        update = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        stack = torch.baddbmm(stack, update, stack, beta=a)
    corners = [
        corner[: len(each), : each.shape[1]]
        for corner, each in zip(stack.float(), wide, strict=True)
    ]
    return [
        corner.mT if len(each) > each.shape[1] else corner
        for corner, each in zip(corners, matrices, strict=True)
    ]
