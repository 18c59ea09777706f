"""`toolkit export`: a checkpoint to files that are served, with their proof."""

import shlex
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from toolkit.console import MODELS, NAME, Console, JsonOption, ModelsOption
from toolkit.errors import EquivalenceError, UsageError
from toolkit.extras import require, require_onnxruntime
from toolkit.model.files import ModelFiles


class Format(StrEnum):
    """What to export to."""

    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"
    PT2 = "pt2"


class Precision(StrEnum):
    """Of the numbers that the network computes with."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


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
    precision: Annotated[
        Precision, typer.Option(help="A lower one than fp32 is judged by graded X-rays.")
    ] = Precision.FP32,
    opset: Annotated[
        int | None, typer.Option(metavar="N", help="ONNX operator set; default 20.")
    ] = None,
    allow_dead_input: Annotated[
        bool, typer.Option(help="Export a network though one of its inputs has no effect.")
    ] = False,
    drop_dead: Annotated[
        bool, typer.Option(help="Replace a branch by its output where that is provably constant.")
    ] = False,
    models: ModelsOption = MODELS,
    as_json: JsonOption = False,
) -> None:
    """Export NAME and compare every file with PyTorch; what differs is not kept."""
    require("torch", "train")
    require("onnxscript", "train")
    require_onnxruntime()
    from export.compare.report import write_report
    from export.convert.onnx import OPSET
    from export.export import DeadInput, Options
    from export.export import export as run
    from toolkit.files import require_writable

    if opset is not None and format is not Format.ONNX:
        raise UsageError(f"{format.value} has no opset: leave --opset out")
    console = Console(as_json)
    source = ModelFiles(models, name)
    target = ModelFiles(out or models, name)
    require_writable(target.folder, "--out")
    console.notice(f"exporting {name} to {_TITLES[format]} and comparing it with PyTorch")
    allowed = DeadInput.ALLOW if allow_dead_input else DeadInput.REFUSE
    dead_input = DeadInput.DROP if drop_dead else allowed
    options = Options(data, opset or OPSET, precision.value, dead_input)
    verdict = run(format.value, source, target, options)
    page = write_report(verdict, target)
    for finding in verdict.findings:
        console.notice(f"warning: {finding.text}")
    legs = verdict.legs
    artifacts = {kind: str(target.path(kind)) for kind in legs}
    if not verdict.passed:
        lines = [f"{kind}: {line}" for kind, leg in legs.items() for line in leg.failures]
        console.notices(lines, f"nothing was exported; the report is {page}")
        raise EquivalenceError(f"{name} in {_TITLES[format]} is not equal to PyTorch: {lines[0]}")
    samples = len(verdict.inputs.kinds)
    text = [
        f"{kind:9} {artifacts[kind]}  {each.output}: max {each.max_abs:.2g}, mean "
        f"{each.mean_abs:.2g} (allowed {each.allowed})"
        for kind, leg in legs.items()
        for each in leg.outputs
    ] + [
        f"{kind:9} {leg.gate.agreement:.2%} of {leg.gate.samples} graded X-rays keep their class"
        for kind, leg in legs.items()
        if leg.gate
    ]
    console.result(
        {
            "name": name,
            "passed": True,
            "artifacts": artifacts,
            "manifest": str(target.manifest),
            "report": str(page),
            "health": [asdict(finding) for finding in verdict.findings],
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
        "\n".join([*text, f"equal on {samples} X-rays; next: {_serving(target)}"]),
    )


def _serving(files: ModelFiles) -> str:
    """Return the command that serves these files."""
    settings = [("TOOLKIT_MODELS", str(files.folder.absolute())), ("TOOLKIT_MODEL", files.name)]
    given = [f"{key}={shlex.quote(value)}" for key, value in settings]
    return " ".join([*given[files.folder == MODELS :], "bentoml serve"])
