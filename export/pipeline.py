"""The module that is served: preprocessing, network and probabilities in one graph."""

import torch
from torch import Tensor, nn

from toolkit.checkpoint import load_trained
from toolkit.manifest import Manifest
from toolkit.network import IntermediarySpaceModel
from toolkit.preprocessing import Preprocessing
from toolkit.store import ModelFiles


class Pipeline(nn.Module):
    """Grey X-rays to logits, probabilities and the edge map.

    Always in evaluation mode: a fresh Module starts in training mode, with dropout live.

    Args:
        preprocessing: with the model's constants.
        network: trained.
        temperature: T of softmax(logits / T).
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        network: IntermediarySpaceModel,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.network = network
        self.temperature = temperature
        self.eval()

    def forward(self, xray: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits and probabilities, float32 (N, C), and edge map, uint8 (N, 224, 224).

        Args:
            xray: grey levels, uint8 (N, 224, 224).
        """
        edge_map = self.preprocessing.edge_map(xray)
        logits = self.network(self.preprocessing.image(xray), self.preprocessing.edges(edge_map))
        return logits, probabilities_of(logits, self.temperature), edge_map


def load_pipeline(files: ModelFiles, record: Manifest) -> Pipeline:
    """Return the trained model of a manifest as the module that is served.

    Raises:
        CheckpointError: the checkpoint is missing, corrupt, or not the manifest's.
    """
    network = load_trained(files, record)
    return Pipeline(Preprocessing(record.preprocessing), network, record.temperature)


def probabilities_of(logits: Tensor, temperature: float) -> Tensor:
    """Return softmax(logits / temperature), float32 (N, C)."""
    # Without calibration there is nothing to divide by, in the graph neither.
    return torch.softmax(logits if temperature == 1 else logits / temperature, dim=1)
