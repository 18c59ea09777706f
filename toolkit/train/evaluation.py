"""What a network says of graded X-rays, and by which of them it is judged."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolkit.errors import DataError, TrainingError
from toolkit.model.manifest import Manifest
from toolkit.model.metrics import Evaluation, evaluate
from toolkit.networks.base import Classifier, device_of
from toolkit.train.dataset import Dataset, load_folder
from toolkit.xray.annotations.patients import BY_FILES, PatientRule, identify_patients
from toolkit.xray.annotations.sources import NOTHING, Annotations
from toolkit.xray.folders import XrayFile, class_of, scan

ALL = "all"
_BATCH = 128
# A GPU is not filled by fewer.
_GPU_BATCH = 1024
_PERMUTATIONS = 10


@torch.no_grad()
def predict(classifier: Classifier, pixels: Tensor) -> Tensor:
    """Return the logits, float32 (N, C) on the CPU, of X-rays, uint8 (N, size, size)."""
    classifier.eval()
    return torch.cat([classifier.logits(xray) for xray in batches(pixels)]).cpu()


def batches(values: Tensor) -> tuple[Tensor, ...]:
    """Return rows in as many at once as suit the device that they are on."""
    return torch.split(values, _GPU_BATCH if values.is_cuda else _BATCH)


def logits_of(classifier: Classifier, dataset: Dataset, part: str) -> NDArray[np.float32]:
    """Return the logits of one part, float32 (N, C).

    Raises:
        TrainingError: they are not finite.
    """
    logits = predict(classifier, dataset.pixels[dataset.parts[part]].to(device_of(classifier)))
    if not logits.isfinite().all():
        raise TrainingError(
            f"the network's output on the part {part!r} is not finite: lower the learning rate "
            "with --lr"
        )
    result: NDArray[np.float32] = logits.numpy()
    return result


def truth_of(dataset: Dataset, part: str) -> NDArray[np.int64]:
    """Return the class indices of one part, or of `ALL`, int64 (N,)."""
    result: NDArray[np.int64] = dataset.labels[part_indices(dataset, part)].numpy()
    return result


def evaluation_of(
    dataset: Dataset, part: str, probabilities: NDArray[np.floating], positive: str | None = None
) -> Evaluation:
    """Return how good probabilities, (N, C), of one part, or of `ALL`, are.

    Args:
        dataset: whose labels and patients they are judged by.
        part: of it.
        probabilities: as they are answered; the largest is the class.
        positive: of two classes, the label of the one that is sought; the last if not given.
    """
    labels, indices = dataset.label_map, part_indices(dataset, part).tolist()
    return evaluate(
        truth_of(dataset, part),
        probabilities.argmax(axis=1),
        len(labels.classes),
        ordinal=labels.graded,
        patients=[dataset.patients.keys[index] for index in indices],
        probabilities=probabilities,
        positive_class=labels.classes.index(positive or labels.classes[-1]),
    )


@torch.no_grad()
def permutation(classifier: Classifier, dataset: Dataset) -> dict[str, float]:
    """Return what each input is worth: the accuracy lost when it is another X-ray's.

    Breiman, "Random forests", Machine Learning 45, 2001; the mean over several permutations of
    the validation part.

    Returns:
        Under each input's name a share of the X-rays, -1 to 1; nothing without that part.
    """
    if "val" not in dataset.parts:
        return {}
    classifier.eval()
    indices, device = dataset.parts["val"], device_of(classifier)
    pixels, labels = dataset.pixels[indices].to(device), dataset.labels[indices].to(device)
    classes = (_of_features if classifier.has_features else _of_inputs)(classifier, pixels)

    def accuracy(place: int | None, others: Tensor) -> float:
        return float((classes(place, others) == labels).double().mean())

    whole = accuracy(None, torch.arange(len(indices), device=device))
    names = [spec.name for spec in classifier.definition.inputs]
    lost = dict.fromkeys(names, 0.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(_PERMUTATIONS):
        others = torch.randperm(len(indices), generator=generator).to(device)
        for place, name in enumerate(names):
            lost[name] += (whole - accuracy(place, others)) / _PERMUTATIONS
    return lost


Classes = Callable[[int | None, Tensor], Tensor]
"""From an input's place, or None, and whose X-ray's it is to be, to the classes, int64 (N,)."""


def _of_features(classifier: Classifier, pixels: Tensor) -> Classes:
    """Return what runs the features of each input once, and what joins them each time."""
    runs = [classifier.features(xray) for xray in torch.split(pixels, _BATCH)]
    features = [torch.cat(each) for each in zip(*runs, strict=True)]

    def classes(place: int | None, others: Tensor) -> Tensor:
        given = [each[others] if i == place else each for i, each in enumerate(features)]
        return classifier.joined(given).argmax(dim=1)

    return classes


def _of_inputs(classifier: Classifier, pixels: Tensor) -> Classes:
    """Return what runs the whole network each time, in batches."""

    def classes(place: int | None, others: Tensor) -> Tensor:
        found = []
        for some in torch.split(torch.arange(len(pixels)), _BATCH):
            given = list(classifier.inputs(pixels[some]))
            if place is not None:
                given[place] = classifier.inputs(pixels[others[some]])[place]
            found.append(classifier.network(*given).argmax(dim=1))
        return torch.cat(found)

    return classes


def load_as_trained(
    folder: Path,
    record: Manifest,
    part: str,
    said: Annotations = NOTHING,
    cache: Path | None = None,
) -> Dataset:
    """Return graded X-rays, split as a model's training split them, as far as they allow.

    Where that is not known, or they are others, parts are taken by folder; its warnings say so.

    Args:
        folder: as `toolkit.xray.folders.scan` takes it.
        record: the model's manifest.
        part: that is asked for, or `ALL`.
        said: tables beside the folder, where the training had some, or others have.
        cache: folder of decoded pixels, as `toolkit.xray.bulk.read_files` takes it.

    Raises:
        DataError: no X-ray can be used, or the part cannot be told.
    """
    known, seed = record.dataset, record.training.seed or 0
    labels, table = said.labels_for(record.labels, folder), said.table
    shape = record.network.xray_shape
    files = scan(folder, labels, table)
    graded = [file for file in files if class_of(file, labels) is not None]
    there = {file.part for file in graded}
    rule = said.rule(known.patient_pattern if known else None)
    load = partial(load_folder, folder, labels, cache=cache, shape=shape, table=table, seed=seed)
    # Where parts are folders, no other part needs to be read.
    load_part = partial(load, "published", rule=rule, part=part if part in there else None)
    has_parts = any(there)
    not_its_own = DataError(
        f"{folder} is not the data that {record.name}'s parts were drawn from: use --part all"
    )
    by_folder = "parts are taken by folder, and the model may have been trained on any of them"
    if part == ALL or (known and known.source == "generated"):
        return replace(load(None, rule=_fitting(rule, graded, folder)), warnings=())
    if known is None:
        if not has_parts:
            raise DataError(
                f"{record.name} was imported, so its split is not known, and {folder} has no "
                "folders train, val and test: use --part all"
            )
        dataset = load_part()
        note = f"{record.name} was imported, so its split is not known: {by_folder}"
        return replace(dataset, warnings=(note,))
    if known.split == "published":
        if not has_parts:
            raise not_its_own
        return replace(load_part(), warnings=())
    dataset = load(known.split, rule=rule)
    here = {name: dataset.part_sha256(name) for name in dataset.parts}
    if here == known.part_sha256:
        return replace(dataset, warnings=())
    if not has_parts:
        raise not_its_own
    note = f"this is not the data that the model's split was drawn from: {by_folder}"
    return replace(load_part(), warnings=(note,))


def _fitting(rule: PatientRule, files: Sequence[XrayFile], folder: Path) -> PatientRule:
    """Return a training's rule; none where its pattern leaves an X-ray out, as others' may be."""
    if rule.pattern is None:
        return rule
    try:
        identify_patients(files, folder, rule)
    except DataError:
        return BY_FILES
    return rule


def part_indices(dataset: Dataset, part: str) -> Tensor:
    """Return the indices of a part's X-rays, or of `ALL`, int64.

    Raises:
        DataError: there is no such part; those that are there are named.
    """
    if part == ALL:
        return torch.arange(len(dataset.names))
    if part not in dataset.parts:
        raise DataError(
            f"the data has no part {part!r}: it has {', '.join(dataset.parts)}; choose "
            "one with --part, or all"
        )
    return dataset.parts[part]
