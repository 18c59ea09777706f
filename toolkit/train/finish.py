"""What a finished training leaves: the checkpoint, the manifest, and what they replace."""

import platform
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from toolkit.errors import ManifestError, UsageError
from toolkit.extras import versions
from toolkit.files import held_signals, sha256, write_bytes
from toolkit.model import manifest, metrics, records
from toolkit.model.files import SUFFIXES, ModelFiles
from toolkit.model.renaming import renamed
from toolkit.networks.base import parameters_of
from toolkit.train import checkpoint, novelty
from toolkit.train.calibration import calibrate, softmax
from toolkit.train.evaluation import evaluation_of, logits_of, permutation, truth_of
from toolkit.train.log_folder import LogFolder
from toolkit.train.recipes import as_dict
from toolkit.train.training import Training


def judge(
    training: Training,
    name: str,
    tuning: records.TuningRecord | None = None,
    positive: str | None = None,
) -> tuple[manifest.Manifest, novelty.Novelty | None]:
    """Return what a finished training came to, and the novelty of X-rays where it has a `val`.

    Args:
        training: a finished one.
        name: of the model.
        tuning: the study that the recipe came from, if any.
        positive: of two classes, the label of the one that is sought; the last if not given.

    Raises:
        TrainingError: the network's output is not finite.
    """
    dataset, recipe = training.dataset, training.recipe
    classifier, definition = training.classifier, training.definition
    logits = {part: logits_of(classifier, dataset, part) for part in dataset.parts}
    calibration = None
    if "val" in dataset.parts:
        calibration = calibrate(logits["val"], truth_of(dataset, "val"), "val")
    temperature = calibration.temperature if calibration else 1.0
    settings = as_dict(recipe)
    settings.pop("constants", None)
    known = definition.record(training.config)
    layer_size, dropout = (None, None) if known else (recipe.layer_size, recipe.dropout)
    record = manifest.Manifest(
        name=name,
        labels=dataset.label_map,
        preprocessing=None if known else recipe.constants,
        dataset=dataset.record(),
        network=records.NetworkRecord(layer_size, dropout, parameters_of(training.result), known),
        training=records.TrainingRecord(
            checkpoint_sha256="",
            recipe=settings,
            seed=training.seed,
            device=_device_name(training.device),
            epochs=training.epoch,
            versions={},
            metrics={
                part: metrics.as_dict(
                    evaluation_of(dataset, part, softmax(each, temperature), positive)
                )
                for part, each in logits.items()
            },
            permutation=permutation(classifier, dataset),
            distillation=training.targets.record if training.targets else None,
            weights=training.began_with,
        ),
        tuning=tuning,
        calibration=calibration,
    )
    measure = None
    if calibration and (fitted := novelty.fit(classifier, dataset)):
        measure, limit, within = fitted
        scope = records.ScopeRecord("", "val", len(dataset.parts["val"]), limit, within)
        record = replace(record, scope=scope)
    return record, measure


def save_training(
    training: Training,
    judged: tuple[manifest.Manifest, novelty.Novelty | None],
    files: ModelFiles,
    log: LogFolder | None = None,
) -> tuple[manifest.Manifest, bool]:
    """Write NAME.pt, NAME.scope.pt and NAME.json; remove the state that resuming would need.

    Args:
        training: a finished one.
        judged: what `judge` says of it.
        files: of the model.
        log: of the model, if any; that of the training takes its place.

    Returns:
        The manifest, and whether there was a former model; it is kept as NAME.previous.*, and its
        log likewise.

    Raises:
        UsageError: a folder cannot be written.
    """
    record, measure = judged
    with held_signals():
        state, source = training.result.state_dict(), training.definition.content
        saved = save_model(record, state, files, measure, log, source)
        if log:
            log.replace()
        files.resume.unlink(missing_ok=True)
    return saved


def save_model(
    record: manifest.Manifest,
    state: dict[str, Tensor],
    files: ModelFiles,
    measure: novelty.Novelty | None = None,
    log: LogFolder | None = None,
    source: bytes = b"",
) -> tuple[manifest.Manifest, bool]:
    """Write a model's files, all or none; a former model is kept as NAME.previous.*.

    Args:
        record: what is known of the model. The versions and the files' hashes are filled in here,
            whatever it says.
        state: the weights.
        files: of the model.
        measure: of the novelty of X-rays, where the record has a `scope`.
        log: of the model, if any; it goes with the former model.
        source: of the network's definition, where that is not the study's.

    Returns:
        The manifest, and whether there was a former model.

    Raises:
        UsageError: the folder cannot be written.
    """
    known = versions("toolkit", "torch", "numpy", "pillow")
    training = replace(record.training, versions={"python": platform.python_version()} | known)
    with held_signals():
        replaced = keep_previous(files)
        checkpoint.save(state, files.checkpoint)
        training = replace(training, checkpoint_sha256=sha256(files.checkpoint))
        record = replace(record, training=training)
        if measure and record.scope:
            digest = novelty.save(measure, files)
            record = replace(record, scope=replace(record.scope, sha256=digest))
        else:
            files.path("scope").unlink(missing_ok=True)
        if source:
            write_bytes(files.path("definition"), source)
        else:
            files.path("definition").unlink(missing_ok=True)
        manifest.save(record, files.manifest)
        if replaced and log:
            log.keep_previous()
    return record, replaced


def keep_previous(files: ModelFiles) -> bool:
    """Rename the files of a finished model to NAME.previous.*; return whether there were any.

    A checkpoint without a manifest is no finished model: it becomes NAME.unfinished.pt where there
    is a former model already. What was stopped half-way is finished by the next call.

    Raises:
        UsageError: they cannot be renamed.
    """
    former = files.previous
    # The manifest is removed and renamed last: as long as a manifest is there, a call that was
    # stopped half-way can be finished by the next.
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


def _device_name(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
