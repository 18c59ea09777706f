"""The network that is taken where no other is named: the study's."""

from typing import Any

import torch
from torch import Tensor, nn

from toolkit.model.equivalence import TensorSpec
from toolkit.model.records import PreprocessingConstants
from toolkit.networks.base import Classifier
from toolkit.networks.folding import features_of, fold
from toolkit.networks.preprocessing import Preprocessing
from toolkit.networks.study import EDGE_SIZE, IMAGE_SIZE, IntermediarySpaceModel

_IMAGE, _EDGES = "imagesClassifier", "edgesClassifier"


class StudyNetwork:
    """The study's network, as `toolkit.networks.base.Network` asks for it.

    Args:
        constants: of the preprocessing.
    """

    size = EDGE_SIZE
    mirror = True
    inputs = (
        TensorSpec("image", "float32", ("batch", 3, IMAGE_SIZE, IMAGE_SIZE)),
        TensorSpec("edges", "float32", ("batch", 1, EDGE_SIZE, EDGE_SIZE)),
    )
    views = ("edge_map",)
    maps = (
        (f"{_IMAGE}.2", f"{_IMAGE}.6", f"{_IMAGE}.13"),
        (f"{_EDGES}.2", f"{_EDGES}.6", f"{_EDGES}.10"),
    )

    def __init__(self, constants: PreprocessingConstants | None = None) -> None:
        self.constants = constants or PreprocessingConstants()

    def preprocessing(self) -> Preprocessing:
        """Return what makes the image and the edges."""
        return Preprocessing(self.constants)

    def module(
        self, classes: int, layer_size: int = 28, dropout: float = 0.5
    ) -> IntermediarySpaceModel:
        """Return the network with so many classes."""
        return IntermediarySpaceModel(layer_size, dropout, classes)

    def fast(self, classifier: Classifier) -> Classifier:
        """Return an equal one over one grey channel."""
        return classifier.with_parts(*fold(*_parts(classifier)))

    def quick_features(
        self, module: IntermediarySpaceModel, preprocessing: Preprocessing, xray: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what the branches give, over one grey channel."""
        return features_of(module, preprocessing, xray)

    def branches(self, preprocessing: Preprocessing) -> dict[str, tuple[str, Tensor, Tensor]]:
        """Return each branch with the smallest and largest value of each element it takes."""
        xrays = torch.zeros(2, EDGE_SIZE, EDGE_SIZE, dtype=torch.uint8)
        xrays[1] = 255
        images, edges = preprocessing.image(xrays), preprocessing.edges(xrays)
        return {"image": (_IMAGE, *images), "edges": (_EDGES, *edges)}


def _parts(classifier: Classifier) -> tuple[Any, Any]:
    """Return a classifier's network and preprocessing, which are the study's."""
    parts: tuple[nn.Module, nn.Module] = classifier.network, classifier.preprocessing
    return parts
