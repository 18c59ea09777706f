"""A network that computes in half precision, from and to float32."""

import copy

from torch import Tensor, nn

from toolkit.networks.base import Classifier


class HalfPrecision(nn.Module):
    """Runs a network in float16.

    Args:
        network: from inputs to logits; it is changed.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.half_network = network.half()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return logits, float32 (N, C), of inputs that are rounded to float16."""
        rounded = [each.half() if each.is_floating_point() else each for each in inputs]
        logits: Tensor = self.half_network(*rounded)
        return logits.float()


def halve(classifier: Classifier) -> Classifier:
    """Return a classifier whose network computes in half precision; the given one stays."""
    network = HalfPrecision(copy.deepcopy(classifier.network))
    return classifier.with_parts(network, classifier.preprocessing)
