"""The module that is served: preprocessing, network, probabilities and novelty in one graph."""

import torch
from torch import Tensor, nn

from toolkit.model.files import ModelFiles
from toolkit.model.manifest import Manifest
from toolkit.networks.preprocessing import Preprocessing
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.train import novelty
from toolkit.train.checkpoint import load_trained
from toolkit.train.novelty import Novelty, branch_maps


class Pipeline(nn.Module):
    """Grey X-rays to logits, probabilities, the edge map and, with a scope, their novelty.

    Always in evaluation mode: a fresh Module starts in training mode, with dropout live.

    Args:
        preprocessing: with the model's constants.
        network: trained.
        temperature: T of softmax(logits / T).
        scope: of the network; None where it is not known.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        network: IntermediarySpaceModel,
        temperature: float = 1.0,
        scope: Novelty | None = None,
    ) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.network = network
        self.temperature = temperature
        self.scope = scope
        self.eval()

    def forward(self, xray: Tensor) -> tuple[Tensor, ...]:
        """Return what `outputs_of` does.

        Args:
            xray: grey levels, uint8 (N, 224, 224).
        """
        edge_map = self.preprocessing.edge_map(xray)
        inputs = self.preprocessing.image(xray), self.preprocessing.edges(edge_map)
        return outputs_of(self.network, self.temperature, self.scope, inputs, edge_map)


def load_pipeline(files: ModelFiles, record: Manifest) -> Pipeline:
    """Return the trained model of a manifest as the module that is served.

    Raises:
        CheckpointError: checkpoint or scope is missing, corrupt, or not the manifest's.
    """
    network = load_trained(files, record)
    scope = novelty.load(files, record.scope) if record.scope else None
    return Pipeline(Preprocessing(record.preprocessing), network, record.temperature, scope)


def without_scope(pipeline: Pipeline) -> Pipeline:
    """Return the same pipeline, sharing its weights, that gives no novelty."""
    return Pipeline(pipeline.preprocessing, pipeline.network, pipeline.temperature)


def outputs_of(
    network: IntermediarySpaceModel,
    temperature: float,
    scope: Novelty | None,
    inputs: tuple[Tensor, Tensor],
    edge_map: Tensor,
) -> tuple[Tensor, ...]:
    """Return what a pipeline gives of X-rays.

    Args:
        network: with an image branch that takes the first of `inputs`.
        temperature: T of softmax(logits / T).
        scope: of the network, or None.
        inputs: of its branches, (N, ...).
        edge_map: uint8 (N, 224, 224).

    Returns:
        Logits and probabilities, float32 (N, C), `edge_map` and, with a scope, the novelty,
        float32 (N,).
    """
    if scope is None:
        logits = network(*inputs)
        return logits, probabilities_of(logits, temperature), edge_map
    image, image_maps = branch_maps(network.imagesClassifier, inputs[0])
    edges, edge_maps = branch_maps(network.edgesClassifier, inputs[1])
    logits = network.joined(image, edges)
    novelty = scope((image_maps, edge_maps))
    return logits, probabilities_of(logits, temperature), edge_map, novelty


def probabilities_of(logits: Tensor, temperature: float) -> Tensor:
    """Return softmax(logits / temperature), float32 (N, C)."""
    # Without calibration there is nothing to divide by, in the graph neither.
    return torch.softmax(logits if temperature == 1 else logits / temperature, dim=1)
