"""The module that is served: preprocessing, network, probabilities and novelty in one graph."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolkit.model.files import ModelFiles
from toolkit.model.manifest import Manifest
from toolkit.networks.base import Classifier
from toolkit.runtime.occlusion import PicturesModel
from toolkit.train import novelty
from toolkit.train.checkpoint import load_trained
from toolkit.train.novelty import Novelty, run_with_maps


class Pipeline(Classifier):
    """X-rays to logits, probabilities, the views and, with a scope, their novelty.

    Always in evaluation mode: a fresh Module starts in training mode, with dropout live.

    Args:
        classifier: whose definition, network and preprocessing it shares.
        temperature: T of softmax(logits / T).
        scope: of the network; None where it is not known.
    """

    def __init__(
        self, classifier: Classifier, temperature: float = 1.0, scope: Novelty | None = None
    ) -> None:
        super().__init__(classifier.definition, classifier.network, classifier.preprocessing)
        self.temperature = temperature
        self.scope = scope
        self.eval()

    @cached_property
    def classes(self) -> int:
        """How many there are."""
        with torch.no_grad():
            xray = torch.zeros(1, *self.xray_shape(), dtype=torch.uint8)
            logits = Classifier.forward(self, xray)
        return logits.shape[1]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what it gives, in order."""
        novelty = ("novelty",) if self.scope else ()
        return ("logits", "probabilities", *self.definition.views, *novelty)

    def forward(self, xray: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return what is served of X-rays.

        Args:
            xray: uint8 (N, size, size), or (N, size, size, 3) in colour.

        Returns:
            Logits and probabilities, float32 (N, C), each view, uint8 (N, size, size), and, with a
            scope, the novelty, float32 (N,).
        """
        views = self.views(xray)
        inputs = self.inputs_of(xray, views)
        novelty: tuple[Tensor, ...] = ()
        if self.scope:
            logits, maps = run_with_maps(self, inputs)
            novelty = (self.scope(maps),)
        else:
            logits = self.network(*inputs)
        return logits, probabilities_of(logits, self.temperature), *views, *novelty

    def fast(self) -> "Pipeline":
        """Return an equal, faster pipeline, where the definition has one."""
        faster = getattr(self.definition, "fast", None)
        found: Pipeline = faster(self) if faster else self
        return found


class SplitPipeline(Classifier):
    """A pipeline with X-ray and views apart, so that one can be changed by itself.

    Args:
        pipeline: whose preprocessing and network it shares.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline.definition, pipeline.network, pipeline.preprocessing)
        self.eval()

    def forward(self, xray: Tensor, *views: Tensor) -> Tensor:
        """Return logits, float32 (N, C).

        Args:
            xray: that the inputs are made of, uint8 (N, size, size).
            views: that they are made of as well, uint8 (N, size, size) each.
        """
        logits: Tensor = self.network(*self.inputs_of(xray, views))
        return logits


def torch_explainer(
    pipeline: Pipeline, xray: NDArray[np.uint8]
) -> tuple[dict[str, NDArray[np.uint8]], PicturesModel]:
    """Return an X-ray's views, uint8 (size, size), and what runs X-ray and views apart."""
    split = SplitPipeline(pipeline)

    def run(pictures: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.float32]:
        with torch.no_grad():
            logits: Tensor = split(*map(torch.from_numpy, pictures.values()))
        result: NDArray[np.float32] = logits.numpy()
        return result

    views = split.views(torch.from_numpy(xray[None]))
    names = pipeline.definition.views
    return {name: view[0].numpy() for name, view in zip(names, views, strict=True)}, run


def load_pipeline(files: ModelFiles, record: Manifest, again: str | None = None) -> Pipeline:
    """Return the trained model of a manifest as the module that is served.

    Args:
        files: of the model.
        record: its manifest.
        again: another definition of its network, where the user says so.

    Raises:
        CheckpointError: checkpoint or scope is missing, corrupt, or not the manifest's.
        DefinitionError: the definition is missing, changed, or does not run.
    """
    classifier = load_trained(files, record, again)
    scope = novelty.load(files, record.scope) if record.scope else None
    return Pipeline(classifier, record.temperature, scope)


def probabilities_of(logits: Tensor, temperature: float) -> Tensor:
    """Return softmax(logits / temperature), float32 (N, C)."""
    # Without calibration there is nothing to divide by, in the graph neither.
    return torch.softmax(logits if temperature == 1 else logits / temperature, dim=1)
