"""A network that computes in half precision, from and to float32."""

import torch
from torch import Tensor, nn

from toolkit.networks.folding import GreyPreprocessing, fold
from toolkit.networks.preprocessing import Preprocessing
from toolkit.networks.study import IntermediarySpaceModel


class HalfPreprocessing(GreyPreprocessing):
    """Gives both branches float16, rounded from what they are given in full precision."""

    def image(self, xray: Tensor) -> Tensor:
        """Return uint8 (N, 224, 224) resized, on 0..1: float16 (N, 1, 256, 256)."""
        return super().image(xray).half()

    def edges(self, edge_map: Tensor) -> Tensor:
        """Return an edge map, uint8 (N, 224, 224), normalised: float16 (N, 1, 224, 224)."""
        return super().edges(edge_map).half()


class FullPrecision(nn.Module):
    """A last layer that gives float32."""

    def forward(self, logits: Tensor) -> Tensor:
        """Return float16 (N, C) as float32."""
        return logits.to(torch.float32)


def halve(
    network: IntermediarySpaceModel, preprocessing: Preprocessing
) -> tuple[IntermediarySpaceModel, Preprocessing]:
    """Return the folded network in half precision, and the preprocessing that suits it.

    Both arguments are left as they are.
    """
    folded, _ = fold(network, preprocessing)
    half = folded.half()
    half.outputCombiner.append(FullPrecision())
    return half, HalfPreprocessing(preprocessing.constants)
