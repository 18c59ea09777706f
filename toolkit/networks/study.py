"""The study's two-input network: an X-ray and its edge map to four classes."""

import torch
from torch import Tensor, nn

IMAGE_SIZE = 256
EDGE_SIZE = 224


def _images_classifier(size: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 2 * size, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Dropout(0.2 * dropout),
        nn.Conv2d(2 * size, 2 * size, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Dropout(0.4 * dropout),
        nn.Conv2d(2 * size, 2 * size, 3, padding=1),
        nn.ReLU(),
        nn.Dropout(0.6 * dropout),
        nn.Conv2d(2 * size, size, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        nn.Dropout(0.8 * dropout),
        nn.Linear(size * 7 * 7, 2 * size),
    )


def _edges_classifier(size: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2 * size, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Dropout(0.4 * dropout),
        nn.Conv2d(2 * size, 2 * size, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Dropout(0.6 * dropout),
        nn.Conv2d(2 * size, size, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        nn.Dropout(0.8 * dropout),
        nn.Linear(size * 6 * 6, 2 * size),
    )


def _output_combiner(size: int, dropout: float, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(4 * size, 3 * size),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(3 * size, size),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(size, classes),
    )


class IntermediarySpaceModel(nn.Module):
    """Two convolutional branches joined in an intermediary space.

    The three parts carry the names that they have in the study's checkpoint.

    Args:
        layer_size: S, the width that every layer is a multiple of.
        dropout: main dropout p, 0 to 1; the branches use fractions of it.
        classes: number of classes C.
    """

    def __init__(self, layer_size: int = 28, dropout: float = 0.5, classes: int = 4) -> None:
        super().__init__()
        self.layer_size = layer_size
        self.classes = classes
        self.imagesClassifier = _images_classifier(layer_size, dropout)
        self.edgesClassifier = _edges_classifier(layer_size, dropout)
        self.outputCombiner = _output_combiner(layer_size, dropout, classes)

    def forward(self, image: Tensor, edges: Tensor) -> Tensor:
        """Return logits, float32 (N, C).

        Args:
            image: normalised X-ray, float32 (N, 3, 256, 256).
            edges: normalised edge map, float32 (N, 1, 224, 224).
        """
        return self.joined(*self.features(image, edges))

    def features(self, image: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the branches give, float32 (N, 2S) each, of what `forward` takes."""
        return self.imagesClassifier(image), self.edgesClassifier(edges)

    def joined(self, image_features: Tensor, edge_features: Tensor) -> Tensor:
        """Return logits, float32 (N, C), of what the branches give, float32 (N, 2S) each."""
        logits: Tensor = self.outputCombiner(torch.cat([image_features, edge_features], dim=1))
        return logits
