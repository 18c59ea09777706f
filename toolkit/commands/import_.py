"""`toolkit import`: the study's own checkpoint to a model like any other."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.commands.options.common import ConfigOption, NetworkOption
from toolkit.console import LOGS, MODELS, Console, JsonOption, LogsOption, ModelsOption
from toolkit.errors import UsageError
from toolkit.extras import require
from toolkit.model.files import ModelFiles, checked_new_name

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit.model.manifest import Manifest
    from toolkit.train.log_folder import LogFolder
    from toolkit.xray.labels import LabelMap


def import_(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A whole module or its state_dict, or safetensors."),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="What to call the model; default FILE.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS",
            help="What its classes mean: a label map or FILE.toml; study where there are 4, five "
            "where 5.",
        ),
    ] = None,
    network: NetworkOption = None,
    config: ConfigOption = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...", help="With --network: its classes, in their order; or --labels."
        ),
    ] = None,
    models: ModelsOption = MODELS,
    logs: LogsOption = LOGS,
    as_json: JsonOption = False,
) -> None:
    """Read the study's IntermediarySpaceModel from a file; nothing in it is run.

    With --network, read the state_dict of that network.
    """
    require("torch", "train")
    from toolkit.original.checkpoint import read_original
    from toolkit.original.model import choose_labels, known_record
    from toolkit.train.log_folder import log_folder

    console = Console(as_json)
    files = ModelFiles(models, _name(name, file))
    said = _labels(labels, classes)
    if network:
        _import_own(file, files, network, config, said, log_folder(logs, files.name), console)
        return
    if classes or config:
        raise UsageError("--classes and --config are of a network of your own: give --network")
    original = read_original(file)
    label_map = choose_labels(said, original.classes)
    for line in original.notices:
        console.notice(f"warning: {line}")
    if labels is None:
        console.notice(
            f"{original.classes} classes, taken to be {', '.join(label_map.classes)}: --labels "
            "says otherwise"
        )
    known = known_record(original, label_map, file, files.name)
    record = _save(known, original.state, files, log_folder(logs, files.name), console)
    console.result(
        {
            **_paths(files),
            "layer_size": original.layer_size,
            "dropout": original.dropout,
            "classes": label_map.classes,
            "notices": original.notices,
        },
        f"layer size {original.layer_size}, dropout {original.dropout:g}, "
        f"{original.classes} classes, {_summary(record, files)}",
    )


def _labels(labels: str | None, classes: str | None) -> "LabelMap | None":
    """Return what is said of the classes; None where nothing is.

    Raises:
        DataError: the name of a class is none, or a file of labels cannot be used.
        UsageError: both say it, or what is said names no classes.
    """
    from toolkit.xray.annotations.sources import read_annotations
    from toolkit.xray.labels import FOLDERS, LabelMap, checked_label

    if labels and classes:
        raise UsageError("--labels and --classes both say what the classes are: give one of them")
    if classes:
        names = tuple(checked_label(each, "--classes") for each in classes.split(","))
        if len(set(names)) < len(names):
            raise UsageError(f"--classes {classes} names a class twice")
        return LabelMap(FOLDERS, names, (), ordinal=False)
    said = read_annotations(labels)
    if labels and not (said.labels and said.labels.classes):
        raise UsageError(f"--labels {labels} gives no order of classes: name a map or a FILE.toml")
    return said.labels


def _import_own(
    file: Path,
    files: ModelFiles,
    network: str,
    config: list[str] | None,
    labels: "LabelMap | None",
    log: "LogFolder",
    console: Console,
) -> None:
    """Make a model of a state_dict and the definition of its network."""
    from toolkit.commands.options.network import definition_for
    from toolkit.files import sha256
    from toolkit.model import manifest, records
    from toolkit.networks.base import parameters_of
    from toolkit.train.checkpoint import read_network

    if labels is None or len(labels.classes) < 2:
        raise UsageError(
            "--network needs the classes, in their order: give --classes A,B,... or --labels"
        )
    definition, settings = definition_for(network, config, labels)
    shape = records.NetworkRecord(None, None, 0, definition.record(settings))
    network_read, ways = read_network(file, shape, len(labels.classes), definition.network)
    notices = [f"its weights are read {', '.join(ways)}"] if ways else []
    for line in notices:
        console.notice(f"warning: {line}")
    recipe = {"preset": "imported", "file": file.name, "file_sha256": sha256(file)}
    training = records.TrainingRecord("", recipe, None, "unknown", None, {}, {})
    shape = replace(shape, parameters=parameters_of(network_read))
    known = manifest.Manifest(files.name, labels, None, None, shape, training)
    state = network_read.state_dict()
    record = _save(known, state, files, log, console, definition.content)
    console.result(
        {**_paths(files), "classes": labels.classes, "notices": notices},
        f"{definition.source}, {len(labels.classes)} classes, {_summary(record, files)}",
    )


def _save(
    known: "Manifest",
    state: "dict[str, Tensor]",
    files: ModelFiles,
    log: "LogFolder",
    console: Console,
    source: bytes = b"",
) -> "Manifest":
    """Write a model; say where a former one of the name is kept."""
    from toolkit.train.finish import save_model
    from toolkit.train.log_folder import sole_training

    with sole_training(files, log):
        record, replaced = save_model(known, state, files, log=log, source=source)
    if replaced:
        console.notice(f"the former {files.name} is kept as {files.previous.name}.*")
    return record


def _paths(files: ModelFiles) -> dict[str, str]:
    return {
        "name": files.name,
        "checkpoint": str(files.checkpoint),
        "manifest": str(files.manifest),
    }


def _summary(record: "Manifest", files: ModelFiles) -> str:
    lines = (
        f"{record.network.parameters:,} parameters",
        f"checkpoint  {files.checkpoint}",
        f"manifest    {files.manifest}",
        f"next        toolkit export onnx {files.name}",
    )
    return "\n".join(lines)


def _name(given: str | None, file: Path) -> str:
    if given is not None:
        return checked_new_name(given)
    try:
        return checked_new_name(file.stem)
    except UsageError as error:
        raise UsageError(f"{error}; --name gives it") from error
