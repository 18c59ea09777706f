"""What teachers say of augmented views of every X-ray, once, before a student learns from it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from toolkit.model.records import DistillationRecord
from toolkit.networks.base import Classifier, device_of, may_mirror
from toolkit.train.dataset import Dataset
from toolkit.train.distillation.teachers import Teacher
from toolkit.train.evaluation import batches
from toolkit.train.steps.augmentation import augment, draw
from toolkit.train.steps.lessons import TaughtLessons

VIEWS = 20
"""Of each X-ray, where the recipe augments."""
# Either way, of the range that the augmentation draws from.
_NUDGE = 0.35


@dataclass(frozen=True)
class SoftTargets:
    """Views of X-rays, and the mean of what the teachers say of each.

    Hinton et al., "Distilling the knowledge in a neural network", 2015; that teacher and student
    see the same views: Beyer et al., "Knowledge distillation: a good teacher is patient and
    consistent", CVPR 2022.

    Attributes:
        unlabelled: X-rays of no class, which follow those of the dataset, uint8 (M, ...).
        places: of all X-rays to learn from, int64.
        draws: of the augmentation for each view, float32 (V, N + M, 8).
        probabilities: float32 (V, N + M, C); 0 of X-rays that are not trained on.
        teachers: by name, the SHA-256 of each one's weights.
        strength: of the augmentation.
        mirror: whether views may be mirrored.
    """

    unlabelled: Tensor
    places: Tensor
    draws: Tensor
    probabilities: Tensor
    teachers: dict[str, str]
    strength: float
    mirror: bool

    @cached_property
    def record(self) -> DistillationRecord:
        """What a manifest keeps of it."""
        return DistillationRecord(
            teachers=self.teachers,
            views=len(self.draws),
            unlabelled=len(self.unlabelled),
            unlabelled_sha256=_sha256(self.unlabelled),
            targets_sha256=_sha256(self.probabilities),
        )

    def lessons(self, pixels: Tensor, labels: Tensor) -> TaughtLessons:
        """Return what a student goes through, on the device of the X-rays.

        Args:
            pixels: of the dataset and of those without a class, uint8 (N + M, ...).
            labels: of the dataset, int64 (N,).
        """
        device, none = pixels.device, torch.full((len(self.unlabelled),), -1)
        return TaughtLessons(
            pixels,
            torch.cat([labels, none]).to(device),
            self.draws.to(device),
            self.probabilities.to(device),
            self.strength,
            self.mirror,
        )

    @property
    def taught_by(self) -> str:
        """The teachers, and the SHA-256 of each one's weights, as one line."""
        return ", ".join(f"{name} {digest}" for name, digest in self.teachers.items())


def views_of(strength: float) -> int:
    """Return how many views of each X-ray teachers are asked about."""
    return VIEWS if strength else 1


def make_targets(
    teachers: Sequence[Teacher],
    dataset: Dataset,
    unlabelled: Tensor,
    strength: float,
    mirror: bool,
    seed: int,
    on_views: Callable[[int], None] = lambda _: None,
) -> SoftTargets:
    """Ask teachers about every X-ray to train on, where they are.

    Each one's probabilities are averaged over the view moved a little one way, and moved the other
    way and, where that may be, mirrored.

    Args:
        teachers: all on one device.
        dataset: of the X-rays with a class.
        unlabelled: others to learn from, uint8 (M, ...).
        strength: of the augmentation, as in `Recipe.augmentation`; 0 for the plain X-rays alone.
        mirror: whether the student takes mirrored X-rays; none are made where a teacher does not.
        seed: of the views.
        on_views: is called with the number of views, of whatever X-rays, that are done.
    """
    pixels = torch.cat([dataset.pixels, unlabelled])
    count, classes = len(pixels), len(dataset.label_map.classes)
    places = torch.cat([dataset.parts["train"], torch.arange(len(dataset.pixels), count)])
    generator = torch.Generator().manual_seed(seed)
    views = views_of(strength)
    draws = torch.stack([draw(count, generator).T * bool(strength) for _ in range(views)])
    probabilities = torch.zeros(views, count, classes)
    classifiers = [teacher.classifier for teacher in teachers]
    mirror = mirror and all(may_mirror(each.definition) for each in classifiers)
    shown = pixels[places].to(device_of(classifiers[0]))
    for view in range(views):
        found = _mean_probabilities(classifiers, shown, draws[view][places], strength, mirror)
        probabilities[view, places] = found
        on_views((view + 1) * len(places))
    named = {teacher.name: teacher.checkpoint_sha256 for teacher in teachers}
    return SoftTargets(unlabelled, places, draws, probabilities, named, strength, mirror)


@torch.no_grad()
def _mean_probabilities(
    classifiers: Sequence[Classifier],
    pixels: Tensor,
    draws: Tensor,
    strength: float,
    mirror: bool,
) -> Tensor:
    """Return the mean over all teachers and variants of the views, float32 (N, C), on the CPU."""
    rows = []
    for xray, drawn in zip(batches(pixels), batches(draws.to(pixels.device)), strict=True):
        variants = [augment(xray, strength, each.T, mirror) for each in _variants(drawn, mirror)]
        found = [
            classifier.logits(variant).double().softmax(dim=1)
            for classifier in classifiers
            for variant in variants
        ]
        rows.append(torch.stack(found).mean(dim=0).float().cpu())
    return torch.cat(rows)


def _variants(drawn: Tensor, mirror: bool) -> list[Tensor]:
    """Return draws, float32 (N, 8), of the same view moved one way, and mirrored the other way."""
    found = [drawn.clone(), drawn.clone()]
    for moved, way in zip(found, (-_NUDGE, _NUDGE), strict=True):
        moved[:, 3:5] += way
    if mirror:
        # An even chance is drawn: below 0 or not.
        found[1][:, 0] = -1.0 * (drawn[:, 0] >= 0)
    return found


def _sha256(values: Tensor) -> str:
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()
