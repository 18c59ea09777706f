"""A network that computes in half precision, from and to float32."""

import copy
from typing import Any

from torch import Tensor, nn

from toolkit.networks.base import Classifier


def halve(classifier: Classifier) -> Classifier:
    """Return a classifier whose network computes in half precision; the given one stays.

    Its layers keep their names; its logits are float32 (N, C), of inputs rounded to float16.
    """
    network = copy.deepcopy(classifier.network).half()
    network.register_forward_pre_hook(_round)
    network.register_forward_hook(_widen)
    return classifier.with_parts(network, classifier.preprocessing)


def _round(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.half() if each.is_floating_point() else each for each in inputs)


def _widen(_: nn.Module, __: Any, logits: Tensor) -> Tensor:
    return logits.float()
