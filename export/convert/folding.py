"""The pipeline as it is exported: the X-ray's three equal channels folded into one grey one."""

import copy

import torch
from torch import Tensor, nn

from export.convert.pipeline import Pipeline, outputs_of
from toolkit.networks.folding import folded
from toolkit.networks.preprocessing import Preprocessing


class GreyConv(nn.Module):
    """The first convolution of the image branch, over one grey channel.

    Computed in float64, kept in float32.

    Args:
        conv: the convolution over three channels.
        preprocessing: the mean and standard deviation that its inputs had.
    """

    bias_map: Tensor

    def __init__(self, conv: nn.Conv2d, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.stride, self.padding = conv.stride, conv.padding
        weight, bias_map = folded(conv, preprocessing, torch.float64)
        self.weight = nn.Parameter(weight.detach().float())
        self.register_buffer("bias_map", bias_map.detach().float())

    def forward(self, grey: Tensor) -> Tensor:
        """Return float32 (N, 2S, 63, 63) of a resized X-ray on 0..1, float32 (N, 1, 256, 256)."""
        output = nn.functional.conv2d(grey, self.weight, None, self.stride, self.padding)
        return output + self.bias_map


class Explainer(nn.Module):
    """The folded network with its two inputs apart, so that one can be changed by itself.

    Args:
        pipeline: left as it is.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        folded_pipeline = FoldedPipeline(pipeline)
        self.preprocessing = folded_pipeline.preprocessing
        self.network = folded_pipeline.network
        self.eval()

    def forward(self, xray: Tensor, edge_map: Tensor) -> Tensor:
        """Return logits, float32 (N, C).

        Args:
            xray: grey levels that the image branch sees, uint8 (N, 224, 224).
            edge_map: edges that the edge branch sees, uint8 (N, 224, 224).
        """
        logits: Tensor = self.network(
            self.preprocessing.resized(xray), self.preprocessing.edges(edge_map)
        )
        return logits


class FoldedPipeline(nn.Module):
    """What `Pipeline` computes, with fewer products; `export.compare.equivalence` proves it.

    Args:
        pipeline: left as it is.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.temperature = pipeline.temperature
        self.scope = pipeline.scope
        self.preprocessing = pipeline.preprocessing
        self.network = copy.deepcopy(pipeline.network)
        first = self.network.imagesClassifier[0]
        # Anything else is a branch that does not look at its input.
        if isinstance(first, nn.Conv2d):
            self.network.imagesClassifier[0] = GreyConv(first, pipeline.preprocessing)
        self.eval()

    def forward(self, xray: Tensor) -> tuple[Tensor, ...]:
        """Return what `export.convert.pipeline.outputs_of` does.

        Args:
            xray: grey levels, uint8 (N, 224, 224).
        """
        edge_map = self.preprocessing.edge_map(xray)
        inputs = self.preprocessing.resized(xray), self.preprocessing.edges(edge_map)
        return outputs_of(self.network, self.temperature, self.scope, inputs, edge_map)
