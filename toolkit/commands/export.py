"""`toolkit export`: a checkpoint to files that are served, with their proof."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from toolkit.console import MODELS, NAME, Console, JsonOption, ModelsOption
from toolkit.errors import EquivalenceError
from toolkit.extras import require, require_onnxruntime
from toolkit.store import ModelFiles


class Format(StrEnum):
    """What to export to."""

    ONNX = "onnx"


def export(
    format: Annotated[Format, typer.Argument(metavar="FORMAT", help="onnx")],  # noqa: A002
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="The model's name.")] = NAME,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Real X-rays to compare on as well.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the files go; default --models.")
    ] = None,
    models: ModelsOption = MODELS,
    as_json: JsonOption = False,
) -> None:
    """Export NAME and compare every file with PyTorch; what differs is not kept."""
    require("torch", "train")
    require("onnxscript", "train")
    require_onnxruntime()
    from export.conversion import export_onnx

    del format
    console = Console(as_json)
    source = ModelFiles(models, name)
    target = ModelFiles(out or models, name)
    console.notice(f"exporting {name} to ONNX and comparing it with PyTorch")
    record = export_onnx(source, target, data)
    assert record.export and record.equivalence
    legs = record.equivalence.legs
    artifacts = {kind: str(target.path(kind)) for kind in legs}
    if not record.equivalence.passed:
        lines = [f"{kind}: {line}" for kind, leg in legs.items() for line in leg.failures]
        console.notices(lines, "nothing was exported")
        raise EquivalenceError(f"{name} in ONNX is not equal to PyTorch: {lines[0]}")
    text = [
        f"{kind:9} {artifacts[kind]}  {each.output}: max {each.max_abs:.2g}, mean "
        f"{each.mean_abs:.2g} (allowed {each.allowed})"
        for kind, leg in legs.items()
        for each in leg.outputs
    ]
    console.result(
        {
            "name": name,
            "passed": True,
            "artifacts": artifacts,
            "manifest": str(target.manifest),
            "legs": {
                kind: {
                    "argmax_agreement": leg.argmax_agreement,
                    "samples": leg.samples,
                    "outputs": {
                        each.output: {"max_abs": each.max_abs, "mean_abs": each.mean_abs}
                        for each in leg.outputs
                    },
                }
                for kind, leg in legs.items()
            },
        },
        "\n".join([*text, f"equal on {legs['pipeline'].samples} X-rays; next: bentoml serve"]),
    )
