"""What a network says of graded X-rays, and by which of them it is judged."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from toolkit.errors import DataError
from toolkit.model.manifest import Manifest
from toolkit.networks.folding import features_of, logits_of
from toolkit.networks.preprocessing import Preprocessing
from toolkit.networks.study import IntermediarySpaceModel
from toolkit.train.dataset import Dataset, load_folder
from toolkit.xray.folders import scan
from toolkit.xray.patients import PatientRule

ALL = "all"
_BATCH = 128
# A GPU is not filled by fewer.
_GPU_BATCH = 1024
_PERMUTATIONS = 10


@torch.no_grad()
def predict(
    network: IntermediarySpaceModel, preprocessing: Preprocessing, pixels: Tensor
) -> Tensor:
    """Return the logits, float32 (N, C) on the CPU, of X-rays, uint8 (N, 224, 224)."""
    network.eval()
    batches = torch.split(pixels, _GPU_BATCH if pixels.is_cuda else _BATCH)
    return torch.cat([logits_of(network, preprocessing, xray) for xray in batches]).cpu()


@torch.no_grad()
def permutation(
    network: IntermediarySpaceModel, preprocessing: Preprocessing, dataset: Dataset
) -> dict[str, float]:
    """Return what either input is worth: the accuracy lost when it is another X-ray's.

    Breiman, "Random forests", Machine Learning 45, 2001; the mean over several permutations of
    the validation part.

    Returns:
        Under `image` and `edges` a share of the X-rays, -1 to 1; nothing without that part.
    """
    if "val" not in dataset.parts:
        return {}
    network.eval()
    indices = dataset.parts["val"]
    pixels = dataset.pixels[indices].to(preprocessing.white.device)
    batches = torch.split(pixels, _BATCH)
    both = [features_of(network, preprocessing, xray) for xray in batches]
    image, edges = (torch.cat(features) for features in zip(*both, strict=True))
    labels = dataset.labels[indices].to(image.device)
    generator = torch.Generator().manual_seed(0)

    def accuracy(image: Tensor, edges: Tensor) -> float:
        return float((network.joined(image, edges).argmax(dim=1) == labels).double().mean())

    whole = accuracy(image, edges)
    lost = {"image": 0.0, "edges": 0.0}
    for _ in range(_PERMUTATIONS):
        others = torch.randperm(len(indices), generator=generator).to(image.device)
        lost["image"] += (whole - accuracy(image[others], edges)) / _PERMUTATIONS
        lost["edges"] += (whole - accuracy(image, edges[others])) / _PERMUTATIONS
    return lost


def load_as_trained(
    folder: Path,
    record: Manifest,
    part: str,
    groups: Path | None = None,
    cache: Path | None = None,
) -> Dataset:
    """Return graded X-rays, split as a model's training split them, as far as they allow.

    Where that is not known, or they are others, parts are taken by folder; its warnings say so.

    Args:
        folder: as `toolkit.xray.folders.scan` takes it.
        record: the model's manifest.
        part: that is asked for, or `ALL`.
        groups: the table of patients, where the training had one.
        cache: folder of decoded pixels, as `toolkit.xray.bulk.read_files` takes it.

    Raises:
        DataError: no X-ray can be used, or the part cannot be told.
    """
    known, seed = record.dataset, record.training.seed or 0
    has_parts = any(file.part for file in scan(folder))
    not_its_own = DataError(
        f"{folder} is not the data that {record.name}'s parts were drawn from: use --part all"
    )
    by_folder = "parts are taken by folder, and the model may have been trained on any of them"
    if part == ALL or (known and known.source == "generated"):
        dataset = load_folder(folder, record.labels, None, seed, cache=cache)
        return replace(dataset, warnings=())
    if known is None:
        if not has_parts:
            raise DataError(
                f"{record.name} was imported, so its split is not known, and {folder} has no "
                "folders train, val and test: use --part all"
            )
        dataset = load_folder(folder, record.labels, None, cache=cache)
        note = f"{record.name} was imported, so its split is not known: {by_folder}"
        return replace(dataset, warnings=(note,))
    if known.split == "published" and not has_parts:
        raise not_its_own
    rule = PatientRule(None if groups else known.patient_pattern, groups)
    dataset = load_folder(folder, record.labels, known.split, seed, rule, cache)
    here = {name: dataset.part_sha256(name) for name in dataset.parts}
    if known.split == "published" or here == known.part_sha256:
        return replace(dataset, warnings=())
    if not has_parts:
        raise not_its_own
    note = f"this is not the data that the model's split was drawn from: {by_folder}"
    dataset = load_folder(folder, record.labels, "published", cache=cache)
    return replace(dataset, warnings=(note,))


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
