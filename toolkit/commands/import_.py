"""`toolkit import`: the study's own checkpoint to a model like any other."""

from pathlib import Path
from typing import Annotated

import typer

from toolkit.commands.options import Labels
from toolkit.console import LOGS, MODELS, Console, JsonOption, LogsOption, ModelsOption
from toolkit.errors import UsageError
from toolkit.extras import require
from toolkit.model.files import ModelFiles, checked_new_name


def import_(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A whole module or its state_dict, or safetensors."),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="What to call the model; default FILE.")
    ] = None,
    labels: Annotated[
        Labels | None,
        typer.Option(help="What its classes mean; study where there are 4, five where 5."),
    ] = None,
    models: ModelsOption = MODELS,
    logs: LogsOption = LOGS,
    as_json: JsonOption = False,
) -> None:
    """Read the study's IntermediarySpaceModel from a file; nothing in it is run."""
    require("torch", "train")
    from toolkit.original.checkpoint import read_original
    from toolkit.original.model import choose_labels, known_record
    from toolkit.train.finish import save_model
    from toolkit.train.log_folder import log_folder, sole_training

    console = Console(as_json)
    files = ModelFiles(models, _name(name, file))
    original = read_original(file)
    label_map = choose_labels(labels, original.classes)
    for line in original.notices:
        console.notice(f"warning: {line}")
    if labels is None:
        console.notice(
            f"{original.classes} classes, taken to be {', '.join(label_map.classes)}: --labels "
            "says otherwise"
        )
    known = known_record(original, label_map, file, files.name)
    log = log_folder(logs, files.name)
    with sole_training(files, log):
        record, replaced = save_model(known, original.state, files, log=log)
    if replaced:
        console.notice(f"the former {files.name} is kept as {files.previous.name}.*")
    console.result(
        {
            "name": files.name,
            "checkpoint": str(files.checkpoint),
            "manifest": str(files.manifest),
            "layer_size": original.layer_size,
            "dropout": original.dropout,
            "classes": label_map.classes,
            "notices": original.notices,
        },
        "\n".join(
            [
                f"layer size {original.layer_size}, dropout {original.dropout:g}, "
                f"{original.classes} classes, {record.network.parameters:,} parameters",
                f"checkpoint  {files.checkpoint}",
                f"manifest    {files.manifest}",
                f"next        toolkit export onnx {files.name}",
            ]
        ),
    )


def _name(given: str | None, file: Path) -> str:
    if given is not None:
        return checked_new_name(given)
    try:
        return checked_new_name(file.stem)
    except UsageError as error:
        raise UsageError(f"{error}; --name gives it") from error
