"""`toolkit export`: a checkpoint to files that are served, with their proof."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from toolkit.console import MODELS, NAME, Console, JsonOption, ModelsOption
from toolkit.errors import EquivalenceError, UsageError
from toolkit.extras import require, require_onnxruntime
from toolkit.store import ModelFiles


class Format(StrEnum):
    """What to export to."""

    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"
    PT2 = "pt2"


_TITLES = {Format.ONNX: "ONNX", Format.TORCHSCRIPT: "TorchScript", Format.PT2: "pt2"}


def export(
    format: Annotated[Format, typer.Argument(metavar="FORMAT", help="onnx, torchscript or pt2")],  # noqa: A002
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="The model's name.")] = NAME,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Real X-rays to compare on as well.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the files go; default --models.")
    ] = None,
    opset: Annotated[
        int | None, typer.Option(metavar="N", help="ONNX operator set; default 20.")
    ] = None,
    models: ModelsOption = MODELS,
    as_json: JsonOption = False,
) -> None:
    """Export NAME and compare every file with PyTorch; what differs is not kept."""
    require("torch", "train")
    require("onnxscript", "train")
    require_onnxruntime()
    from export.conversion import KINDS, export_onnx, export_torch
    from export.onnx_graph import OPSET

    if opset is not None and format is not Format.ONNX:
        raise UsageError(f"{format.value} has no opset: leave --opset out")
    console = Console(as_json)
    source = ModelFiles(models, name)
    target = ModelFiles(out or models, name)
    console.notice(f"exporting {name} to {_TITLES[format]} and comparing it with PyTorch")
    if format is Format.ONNX:
        record = export_onnx(source, target, data, opset or OPSET)
    else:
        record = export_torch(format.value, source, target, data)
    assert record.export and record.equivalence
    kinds = KINDS if format is Format.ONNX else (format.value,)
    legs = {kind: record.equivalence.legs[kind] for kind in kinds}
    artifacts = {kind: str(target.path(kind)) for kind in legs}
    if not all(leg.passed for leg in legs.values()):
        lines = [f"{kind}: {line}" for kind, leg in legs.items() for line in leg.failures]
        console.notices(lines, "nothing was exported")
        raise EquivalenceError(f"{name} in {_TITLES[format]} is not equal to PyTorch: {lines[0]}")
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
        "\n".join([*text, f"equal on {legs[kinds[-1]].samples} X-rays; next: bentoml serve"]),
    )
