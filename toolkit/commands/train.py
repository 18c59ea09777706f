"""`toolkit train`: data to a checkpoint and its manifest."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolkit.commands.options.common import (
    JOURNAL,
    CacheOption,
    ConfigOption,
    ConflictsOption,
    DataOption,
    DeviceOption,
    GroupsOption,
    LabelsOption,
    NetworkOption,
    PatientsOption,
    PositiveOption,
    Precision,
    Preset,
    SplitOption,
    StorageOption,
    TeachersOption,
)
from toolkit.console import (
    LOGS,
    MODELS,
    NAME,
    Console,
    JsonOption,
    LogsOption,
    ModelsOption,
    NameOption,
)
from toolkit.errors import InterruptedRunError, UsageError
from toolkit.extras import require
from toolkit.model.files import ModelFiles, checked_new_name

if TYPE_CHECKING:
    from toolkit.model.manifest import Manifest
    from toolkit.model.records import TuningRecord
    from toolkit.networks.loading import Definition
    from toolkit.train.log_folder import LogFolder
    from toolkit.train.recipes import Recipe
    from toolkit.train.tensorboard import Log
    from toolkit.train.training import Training

MAX_SEED = 2**63 - 1


def train(
    data: DataOption = None,
    name: NameOption = NAME,
    network: NetworkOption = None,
    config: ConfigOption = None,
    preset: Annotated[
        Preset | None, typer.Option(help="The recipe to start from; default if not given.")
    ] = None,
    from_study: Annotated[
        str | None,
        typer.Option("--from-study", metavar="STUDY", help="Start from the best trials of it."),
    ] = None,
    top: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many of them are averaged.")
    ] = 2,
    storage: StorageOption = None,
    labels: LabelsOption = None,
    layer_size: Annotated[int | None, typer.Option(metavar="N", help="Width S.")] = None,
    dropout: Annotated[float | None, typer.Option(metavar="P", help="Main dropout.")] = None,
    lr: Annotated[float | None, typer.Option(metavar="X", help="Highest learning rate.")] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", help="X-rays a step.")] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="bf16 is faster on processors and GPUs that have it; fp32 if not given."),
    ] = None,
    device: DeviceOption = "auto",
    seed: Annotated[
        int, typer.Option(help="Of weights, order and augmentation.", min=0, max=MAX_SEED)
    ] = 0,
    split: SplitOption = None,
    patients: PatientsOption = None,
    groups: GroupsOption = None,
    allow_conflicts: ConflictsOption = False,
    operating_point: Annotated[
        str | None,
        typer.Option(
            metavar="FIGURE=X",
            help="What the decision between two classes is to reach on val: sensitivity=0.95, or "
            "specificity=...",
        ),
    ] = None,
    positive: PositiveOption = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Weights to begin with, as far as they fit: .pt or .safetensors."
        ),
    ] = None,
    teachers: TeachersOption = None,
    cache: CacheOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where it stopped.")] = False,
    models: ModelsOption = MODELS,
    logs: LogsOption = LOGS,
    as_json: JsonOption = False,
) -> None:
    """Train a network; writes NAME.pt and NAME.json, and TensorBoard logs as it goes."""
    require("torch", "train")
    require("tensorboard", "train")
    from toolkit.commands.operating_point import choose_after, require_choice, target_of
    from toolkit.commands.options.data import DataChoice, load, warnings_of
    from toolkit.commands.options.network import definition_to_train
    from toolkit.commands.options.teachers import targets_of
    from toolkit.networks.base import shape_of
    from toolkit.train.calibration import doubts
    from toolkit.train.checkpoint import require_state
    from toolkit.train.distillation.teachers import doubts as doubts_of
    from toolkit.train.distillation.teachers import load_teachers
    from toolkit.train.health import training_health
    from toolkit.train.log_folder import log_folder, sole_training
    from toolkit.train.recipes import change, faults
    from toolkit.train.training import Training, device_of
    from toolkit.train.weights import beginning, first_weights

    console = Console(as_json)
    # A training that was begun under a former rule goes on.
    files = ModelFiles(models, name if resume else checked_new_name(name))
    choice = DataChoice(
        data, labels, split, patients, groups, allow_conflicts, cache, own=network is not None
    )
    target = target_of(operating_point, positive, choice.label_map)
    definition, settings = definition_to_train(network, config, choice.label_map)
    if network and (preset or layer_size or dropout is not None):
        raise UsageError(
            "--preset, --layer-size and --dropout are of the study's network: the one of "
            "--network has recipe() and --config"
        )
    start, tuning = _start(
        definition, preset, from_study, top, storage or str(logs / JOURNAL), settings
    )
    recipe = change(
        start,
        layer_size=layer_size,
        dropout=dropout,
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        precision=precision,
    )
    first = first_weights(weights) if weights else None
    log = log_folder(logs, name)
    with sole_training(files, log):
        if resume:
            require_state(files.resume)
        dataset = load(choice, recipe.preset, shape_of(definition.network), console)
        require_choice(dataset, target)
        place = device_of(device)
        taught = load_teachers(teachers, models, dataset, place)
        targets = targets_of(taught, dataset, choice, definition, recipe, seed, console)
        training = Training(dataset, recipe, seed, place, definition, targets, first)
        if known := training.began_with:
            console.notice(beginning(known, len(training.network.state_dict())))
        if resume:
            training.load(files.resume)
            console.notice(f"resuming {name} after epoch {training.epoch} of {recipe.epochs}")
        manifest, replaced = _train(training, files, tuning, log, positive)
        if replaced:
            console.notice(f"the former {name} is kept as {files.previous.name}.*")
        if target:
            manifest = choose_after(training, manifest, files, target)
    findings = training_health(training, manifest)
    for finding in findings:
        console.notice(f"warning: {finding.text}")
    warnings = doubts(manifest.calibration) + doubts_of(taught, dataset)
    for warning in warnings:
        console.notice(f"warning: {warning}")
    repeated = faults(recipe, dataset.split) if recipe.preset == "study" else []
    for fault in repeated:
        console.notice(f"warning: fault of the study, repeated by its preset: {fault}")
    point = manifest.operating_point
    console.result(
        {
            "name": name,
            "checkpoint": str(files.checkpoint),
            "manifest": str(files.manifest),
            "logs": str(log.path),
            "epochs": training.epoch,
            "metrics": manifest.training.metrics,
            **({"operating_point": asdict(point)} if point else {}),
            "health": [asdict(finding) for finding in findings],
            "faults": repeated,
            "skipped": list(dataset.skipped),
            "warnings": [*warnings_of(dataset), *warnings],
        },
        _text(manifest, files, log.path),
    )


def _start(
    definition: "Definition",
    preset: Preset | None,
    study: str | None,
    top: int,
    storage: str,
    config: dict[str, Any],
) -> "tuple[Recipe, TuningRecord | None]":
    """Return the recipe to start from, and the study that it came from."""
    from toolkit.train.recipes import own_recipe, recipe

    if study is None and definition.source:
        return own_recipe(definition.network, config), None
    if study is None:
        return recipe(preset or "default"), None
    if config:
        raise UsageError(
            "--config and --from-study both say what the network is made with: give one of them"
        )
    require("optuna", "train")
    from toolkit.tune.ledger import find_study
    from toolkit.tune.report import final_training
    from toolkit.tune.storage import open_storage

    kept = find_study(open_storage(storage, make=False), study)
    found, record = final_training(kept, top, definition)
    if preset and preset != record.preset:
        raise UsageError(
            f"the study {study!r} tuned the preset {record.preset}: leave out --preset"
        )
    return found, record


def _train(
    training: "Training",
    files: ModelFiles,
    tuning: "TuningRecord | None",
    folder: "LogFolder",
    positive: str | None,
) -> "tuple[Manifest, bool]":
    """Train to the end and save; return the manifest, and whether there was a former model."""
    from toolkit.train.finish import judge, save_training
    from toolkit.train.tensorboard import Log, final_figures

    try:
        with Log(folder.unfinished, training.epoch) as log:
            _run(training, files.resume, log)
            judged = judge(training, files.name, tuning, positive)
            record, _ = judged
            log.add_hparams(record.training.recipe, final_figures(record))
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"stopped after epoch {training.epoch} of {training.recipe.epochs}: the same command "
            "with --resume goes on"
        ) from None
    # The log is closed: TensorBoard writes by name, and the folder is renamed.
    return save_training(training, judged, files, folder)


def _run(training: "Training", state: Path, log: "Log") -> None:
    from toolkit.progress import Progress
    from toolkit.train.tensorboard import STATE_EVERY
    from toolkit.train.training import Epoch

    epochs = training.recipe.epochs
    with Progress("epoch", epochs, training.epoch, every=0) as progress:
        if not training.epoch:
            log.add_samples(training)

        def on_epoch(epoch: Epoch) -> None:
            done = epoch.epoch + 1
            log.add_epoch(epoch)
            if done % STATE_EVERY == 0 or done == epochs:
                log.add_state(training, epoch.epoch)
            note = f"train {epoch.train_accuracy:.1%}"
            if epoch.val_accuracy is not None:
                note += f"  val {epoch.val_accuracy:.1%}"
            progress.reach(done, f"{note}  loss {epoch.train_loss:.4f}")

        training.run(state, on_epoch)


def _text(manifest: "Manifest", files: ModelFiles, folder: Path) -> str:
    lines = [
        f"{part}: accuracy {result['accuracy']:.1%}, balanced {result['balanced_accuracy']:.1%} "
        f"over {result['n']} X-rays"
        for part, result in manifest.training.metrics.items()
    ]
    if point := manifest.operating_point:
        lines.append(point.description())
    return "\n".join(
        [
            *lines,
            f"checkpoint  {files.checkpoint}",
            f"manifest    {files.manifest}",
            f"logs        {folder}",
            f"next        toolkit export onnx {files.name}",
        ]
    )
