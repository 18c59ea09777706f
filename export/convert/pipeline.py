"""The module that is served: preprocessing, network, probabilities and novelty in one graph."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.model.files import ModelFiles
from toolkit.model.manifest import Manifest
from toolkit.networks.preprocessing import Preprocessing
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.runtime.occlusion import TwoInputModel
from toolkit.train import novelty
from toolkit.train.checkpoint import load_trained
from toolkit.train.novelty import Novelty, run_with_maps

OUTPUTS = ("logits", "probabilities", "edge_map", "novelty")
"""What a pipeline gives, in this order; one without a scope gives no novelty."""

Parts = tuple[IntermediarySpaceModel, Preprocessing]


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
        """Return what is served of X-rays.

        Args:
            xray: grey levels, uint8 (N, 224, 224).

        Returns:
            Logits and probabilities, float32 (N, C), edge maps, uint8 (N, 224, 224), and, with a
            scope, the novelty, float32 (N,).
        """
        edge_map = self.preprocessing.edge_map(xray)
        inputs = self.preprocessing.image(xray), self.preprocessing.edges(edge_map)
        logits, maps = run_with_maps(self.network, *inputs)
        novelty = (self.scope(maps),) if self.scope else ()
        return logits, probabilities_of(logits, self.temperature), edge_map, *novelty

    def faster(self, equal: Callable[[IntermediarySpaceModel, Preprocessing], Parts]) -> "Pipeline":
        """Return a pipeline of an equal network, such as `toolkit.networks.folding.fold` gives."""
        network, preprocessing = equal(self.network, self.preprocessing)
        return Pipeline(preprocessing, network, self.temperature, self.scope)

    def without_scope(self) -> "Pipeline":
        """Return the same pipeline, sharing its weights, that gives no novelty."""
        return Pipeline(self.preprocessing, self.network, self.temperature)


class SplitPipeline(nn.Module):
    """A pipeline with its two inputs apart, so that one can be changed by itself.

    Args:
        pipeline: whose preprocessing and network it shares.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.preprocessing = pipeline.preprocessing
        self.network = pipeline.network
        self.eval()

    def forward(self, xray: Tensor, edge_map: Tensor) -> Tensor:
        """Return logits, float32 (N, C).

        Args:
            xray: grey levels that the image branch sees, uint8 (N, 224, 224).
            edge_map: edges that the edge branch sees, uint8 (N, 224, 224).
        """
        inputs = self.preprocessing.image(xray), self.preprocessing.edges(edge_map)
        logits: Tensor = self.network(*inputs)
        return logits


def torch_explainer(
    pipeline: Pipeline, xray: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], TwoInputModel]:
    """Return an X-ray's edge map, uint8 (224, 224), and what runs the two inputs apart."""
    split = SplitPipeline(pipeline)

    def run(xrays: NDArray[np.uint8], edge_maps: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            logits: Tensor = split(torch.from_numpy(xrays), torch.from_numpy(edge_maps))
        result: NDArray[np.float32] = logits.numpy()
        return result

    edge_map: NDArray[np.uint8] = split.preprocessing.edge_map(torch.from_numpy(xray[None])).numpy()
    return edge_map[0], run


def load_pipeline(files: ModelFiles, record: Manifest) -> Pipeline:
    """Return the trained model of a manifest as the module that is served.

    Raises:
        CheckpointError: checkpoint or scope is missing, corrupt, or not the manifest's.
    """
    network = load_trained(files, record)
    scope = novelty.load(files, record.scope) if record.scope else None
    return Pipeline(Preprocessing(record.preprocessing), network, record.temperature, scope)


def probabilities_of(logits: Tensor, temperature: float) -> Tensor:
    """Return softmax(logits / temperature), float32 (N, C)."""
    # Without calibration there is nothing to divide by, in the graph neither.
    return torch.softmax(logits if temperature == 1 else logits / temperature, dim=1)
