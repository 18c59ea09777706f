"""`toolkit import`: the study's own checkpoint to a model like any other."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.commands.options import Labels
from toolkit.console import MODELS, Console, JsonOption, ModelsOption
from toolkit.errors import UsageError
from toolkit.extras import require
from toolkit.model.files import ModelFiles, checked_new_name
from toolkit.xray.labels import LABEL_MAPS, LabelMap

if TYPE_CHECKING:
    from toolkit.model.manifest import Manifest
    from toolkit.original.checkpoint import ForeignModel


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.pt", help="A whole module or its state_dict.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="What to call the model; default FILE.")
    ] = None,
    labels: Annotated[
        Labels | None,
        typer.Option(help="What its classes mean; study where there are 4, five where 5."),
    ] = None,
    models: ModelsOption = MODELS,
    as_json: JsonOption = False,
) -> None:
    """Read the study's IntermediarySpaceModel as torch.save(model) wrote it; none of it is run."""
    require("torch", "train")
    from toolkit.files import held_signals
    from toolkit.model.manifest import save as save_manifest
    from toolkit.original.checkpoint import read_foreign
    from toolkit.train.checkpoint import save
    from toolkit.train.finish import keep_previous

    console = Console(as_json)
    files = ModelFiles(models, _name(name, file))
    foreign = read_foreign(file)
    chosen = _labels(labels, foreign.classes)
    for line in foreign.notices:
        console.notice(f"warning: {line}")
    if labels is None:
        console.notice(
            f"{foreign.classes} classes, taken to be {', '.join(chosen.classes)}: --labels says "
            "otherwise"
        )
    with held_signals():
        if keep_previous(files):
            console.notice(f"the former {files.name} is kept as {files.previous.name}.*")
        save(foreign.state, files.checkpoint)
        record = _manifest(foreign, files, chosen, file)
        save_manifest(record, files.manifest)
    console.result(
        {
            "name": files.name,
            "checkpoint": str(files.checkpoint),
            "manifest": str(files.manifest),
            "layer_size": foreign.layer_size,
            "dropout": foreign.dropout,
            "classes": chosen.classes,
            "notices": foreign.notices,
        },
        "\n".join(
            [
                f"layer size {foreign.layer_size}, dropout {foreign.dropout:g}, "
                f"{foreign.classes} classes, {record.network.parameters:,} parameters",
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


def _labels(chosen: Labels | None, classes: int) -> LabelMap:
    """Return the label map that was asked for, or else the first with so many classes."""
    fitting = [each for each in LABEL_MAPS.values() if len(each.classes) == classes]
    for each in fitting:
        if chosen is None or each.name == chosen:
            return each
    known = ", ".join(f"{each.name} has {len(each.classes)}" for each in LABEL_MAPS.values())
    raise UsageError(f"the model has {classes} classes, which these labels do not fit: {known}")


def _manifest(
    foreign: "ForeignModel", files: ModelFiles, labels: LabelMap, source: Path
) -> "Manifest":
    """Say what is known of the model, and nothing of what is not."""
    import platform

    from toolkit.extras import versions
    from toolkit.files import sha256
    from toolkit.model import manifest
    from toolkit.train.recipes import STUDY_EDGES

    return manifest.Manifest(
        name=files.name,
        labels=labels,
        preprocessing=STUDY_EDGES,
        dataset=None,
        network=manifest.NetworkRecord(
            layer_size=foreign.layer_size,
            dropout=foreign.dropout,
            parameters=sum(each.numel() for each in foreign.state.values()),
        ),
        training=manifest.TrainingRecord(
            checkpoint_sha256=sha256(files.checkpoint),
            recipe={
                "preset": "imported",
                "file": source.name,
                "file_sha256": foreign.sha256,
                "notices": list(foreign.notices),
            },
            seed=None,
            device="unknown",
            epochs=None,
            versions={"python": platform.python_version()}
            | versions("toolkit", "torch", "numpy", "pillow"),
            metrics={},
        ),
    )
