"""The module that is served: preprocessing, network and probabilities in one graph."""

import torch
from torch import Tensor, nn

from toolkit.network import IntermediarySpaceModel
from toolkit.preprocessing import Preprocessing


class Pipeline(nn.Module):
    """Grey X-rays to logits, probabilities and the edge map.

    Always in evaluation mode: a fresh Module starts in training mode, with dropout live.
    """

    def __init__(self, preprocessing: Preprocessing, network: IntermediarySpaceModel) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.network = network
        self.eval()

    def forward(self, xray: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits and probabilities, float32 (N, C), and edge map, uint8 (N, 224, 224).

        Args:
            xray: grey levels, uint8 (N, 224, 224).
        """
        edge_map = self.preprocessing.edge_map(xray)
        logits = self.network(self.preprocessing.image(xray), self.preprocessing.edges(edge_map))
        return logits, torch.softmax(logits, dim=1), edge_map
