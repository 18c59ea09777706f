"""What a finished training leaves: the checkpoint, the manifest, and what they replace."""

import platform
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolkit.errors import ManifestError, TrainingError, UsageError
from toolkit.extras import versions
from toolkit.files import held_signals, sha256
from toolkit.model import manifest, metrics
from toolkit.model.files import SUFFIXES, ModelFiles
from toolkit.model.renaming import renamed
from toolkit.networks.folding import features_of
from toolkit.networks.preprocessing import Preprocessing
from toolkit.networks.study import IntermediarySpaceModel, parameter_count
from toolkit.train import checkpoint, novelty
from toolkit.train.calibration import calibrated
from toolkit.train.dataset import Dataset
from toolkit.train.prediction import EVALUATION_BATCH, predict
from toolkit.train.recipes import Recipe
from toolkit.train.training import Training

_PERMUTATIONS = 10


def save_outcome(
    training: Training, files: ModelFiles, tuning: manifest.TuningRecord | None = None
) -> manifest.Manifest:
    """Write NAME.pt, NAME.scope.pt and NAME.json; remove the state that resuming would need.

    All is worked out before anything is written; a former model is kept as NAME.previous.*.

    Args:
        training: a finished one.
        files: of the model.
        tuning: the study that the recipe came from, if any.

    Raises:
        UsageError: the folder cannot be written.
        TrainingError: the network's output is not finite.
    """
    dataset = training.dataset
    logits = {
        part: _logits(training.result, training.preprocessing, dataset, part)
        for part in dataset.parts
    }
    record = manifest.Manifest(
        name=files.name,
        labels=dataset.label_map,
        preprocessing=training.recipe.constants,
        dataset=dataset.record(),
        network=manifest.NetworkRecord(
            layer_size=training.recipe.layer_size,
            dropout=training.recipe.dropout,
            parameters=parameter_count(training.network),
        ),
        training=manifest.TrainingRecord(
            checkpoint_sha256="",
            recipe=_settings(training.recipe),
            seed=training.seed,
            device=_device_name(training.device),
            epochs=training.epoch,
            versions={"python": platform.python_version()}
            | versions("toolkit", "torch", "numpy", "pillow"),
            metrics={part: _evaluation(dataset, part, each) for part, each in logits.items()},
            permutation=permutation(training.result, training.preprocessing, dataset),
        ),
        tuning=tuning,
        calibration=_calibration(dataset, logits),
    )
    in_scope = _scope(training)
    with held_signals():
        keep_previous(files)
        result = _written(record, training.result.state_dict(), in_scope, files)
    files.resume.unlink(missing_ok=True)
    return result


def _written(
    record: manifest.Manifest,
    state: dict[str, Any],
    in_scope: tuple[novelty.Scope, manifest.ScopeRecord] | None,
    files: ModelFiles,
) -> manifest.Manifest:
    """Write a model's files; return the manifest with their hashes."""
    checkpoint.save(state, files.checkpoint)
    trained = replace(record.training, checkpoint_sha256=sha256(files.checkpoint))
    record = replace(record, training=trained)
    if in_scope:
        found, limits = in_scope
        record = replace(record, scope=replace(limits, sha256=novelty.save(found, files)))
    else:
        files.path("scope").unlink(missing_ok=True)
    manifest.save(record, files.manifest)
    return record


def _logits(
    network: IntermediarySpaceModel, preprocessing: Preprocessing, dataset: Dataset, part: str
) -> NDArray[np.float32]:
    """Return the logits of one part, float32 (N, C)."""
    pixels = dataset.pixels[dataset.parts[part]].to(preprocessing.white.device)
    logits = predict(network, preprocessing, pixels)
    if not logits.isfinite().all():
        raise TrainingError(
            f"the network's output on the part {part!r} is not finite: lower the learning rate "
            "with --lr"
        )
    result: NDArray[np.float32] = logits.numpy()
    return result


def _labels(dataset: Dataset, part: str) -> NDArray[np.int64]:
    result: NDArray[np.int64] = dataset.labels[dataset.parts[part]].numpy()
    return result


def _evaluation(dataset: Dataset, part: str, logits: NDArray[np.float32]) -> dict[str, Any]:
    classes = len(dataset.label_map.classes)
    return metrics.as_dict(metrics.evaluate(_labels(dataset, part), logits.argmax(axis=1), classes))


def _calibration(
    dataset: Dataset, logits: dict[str, NDArray[np.float32]]
) -> manifest.CalibrationRecord | None:
    if "val" not in logits:
        return None
    return calibrated(logits["val"], _labels(dataset, "val"), "val")


def _scope(training: Training) -> tuple[novelty.Scope, manifest.ScopeRecord] | None:
    """Return the scope of what was trained, and its record without the file's hash."""
    dataset = training.dataset
    if "val" not in dataset.parts:
        return None
    found, limit, within = novelty.fitted(training.result, training.preprocessing, dataset)
    return found, manifest.ScopeRecord("", "val", len(dataset.parts["val"]), limit, within)


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
    batches = torch.split(pixels, EVALUATION_BATCH)
    both = [features_of(network, preprocessing, xray) for xray in batches]
    image, edges = (torch.cat(each) for each in zip(*both, strict=True))
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


def keep_previous(files: ModelFiles) -> bool:
    """Rename the files of a finished model to NAME.previous.*; return whether there were any.

    A checkpoint without a manifest is no finished model: it becomes NAME.unfinished.pt where there
    is a former model already. What was stopped half-way is finished by the next call.

    Raises:
        UsageError: they cannot be renamed.
    """
    former = files.previous
    # The manifest goes last, away and along: where it lies, its files may still be elsewhere.
    kinds = [*(kind for kind in SUFFIXES if kind != "manifest"), "manifest"]
    try:
        found = [kind for kind in kinds if files.path(kind).exists()]
        if former.manifest.exists():
            if "manifest" not in found and "checkpoint" in found:
                files.checkpoint.replace(files.unfinished)
            if not {"manifest", "checkpoint"} <= {*found}:
                return False
            for kind in kinds:
                former.path(kind).unlink(missing_ok=True)
        for kind in found:
            files.path(kind).replace(former.path(kind))
    except OSError as error:
        raise UsageError(f"cannot keep the former {files.name}: {error.strerror}") from error
    if former.manifest.exists():
        # A manifest that cannot be read, or that names other files, is kept as it is: it must not
        # cost a finished training.
        with suppress(ManifestError, KeyError):
            manifest.save(renamed(manifest.load(former.manifest), former), former.manifest)
    return bool(found)


def _settings(recipe: Recipe) -> dict[str, Any]:
    settings = asdict(recipe)
    del settings["constants"]
    return settings


def _device_name(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
