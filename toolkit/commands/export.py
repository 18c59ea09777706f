"""`toolkit export`: a checkpoint to files that are served, with their proof."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from toolkit.commands.options.common import (
    AgainOption,
    GroupsOption,
    ModelLabelsOption,
    annotations_of,
)
from toolkit.console import MODELS, NAME, Console, JsonOption, ModelsOption
from toolkit.errors import EquivalenceError, UsageError
from toolkit.extras import require, require_onnxruntime
from toolkit.model.equivalence import Gate
from toolkit.model.files import ModelFiles

_TITLES = {"onnx": "ONNX", "torchscript": "TorchScript", "pt2": "pt2"}


def export(
    format_name: Annotated[
        Literal["onnx", "torchscript", "pt2"],
        typer.Argument(metavar="FORMAT", help="onnx, torchscript or pt2"),
    ],
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="The model's name.")] = NAME,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Real X-rays to compare on as well.")
    ] = None,
    labels: ModelLabelsOption = None,
    groups: GroupsOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the files go; default --models.")
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option(help="A lower one than fp32 is judged by graded X-rays."),
    ] = "fp32",
    opset: Annotated[
        int | None, typer.Option(metavar="N", help="ONNX operator set; default 20.")
    ] = None,
    allow_dead_input: Annotated[
        bool, typer.Option(help="Export a network though one of its inputs has no effect.")
    ] = False,
    drop_dead: Annotated[
        bool, typer.Option(help="Replace a branch by its output where that is provably constant.")
    ] = False,
    network: AgainOption = None,
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
    from toolkit.files import require_parent, require_writable

    if opset is not None and format_name != "onnx":
        raise UsageError(f"{format_name} has no opset: leave --opset out")
    console = Console(as_json)
    source = ModelFiles(models, name)
    target = ModelFiles(out or models, name)
    if out:
        require_parent(out)
    require_writable(target.folder, "--out")
    console.notice(f"exporting {name} to {_TITLES[format_name]} and comparing it with PyTorch")
    allowed = DeadInput.ALLOW if allow_dead_input else DeadInput.REFUSE
    dead_input = DeadInput.DROP if drop_dead else allowed
    options = Options(
        data, opset or OPSET, precision, dead_input, annotations_of(data, labels, groups), network
    )
    result = run(format_name, source, target, options)
    page = write_report(result, target)
    for finding in result.findings:
        console.notice(f"warning: {finding.text}")
    legs = result.legs
    artifacts = {kind: str(target.path(kind)) for kind in legs}
    if not result.passed:
        console.notices(result.failures, f"nothing was exported; the report is {page}")
        what = f"{name} in {_TITLES[format_name]}"
        raise EquivalenceError(f"{what} is not equal to PyTorch: {result.failures[0]}")
    samples = len(result.samples.kinds)
    text = [
        f"{kind:9} {artifacts[kind]}  {output.output}: max {output.max_abs:.2g}, mean "
        f"{output.mean_abs:.2g} (allowed {output.allowed})"
        for kind, leg in legs.items()
        for output in leg.outputs
    ] + [f"{kind:9} {_judged(leg.gate)}" for kind, leg in legs.items() if leg.gate]
    console.result(
        {
            "name": name,
            "passed": True,
            "artifacts": artifacts,
            "manifest": str(target.manifest),
            "report": str(page),
            "health": [asdict(finding) for finding in result.findings],
            "legs": {
                kind: {
                    "argmax_agreement": leg.argmax_agreement,
                    "samples": leg.samples,
                    "outputs": {
                        output.output: {"max_abs": output.max_abs, "mean_abs": output.mean_abs}
                        for output in leg.outputs
                    },
                }
                | ({"gate": asdict(leg.gate)} if leg.gate else {})
                for kind, leg in legs.items()
            },
        },
        "\n".join([*text, f"equal on {samples} X-rays; next: {_serving(target)}"]),
    )


def _judged(gate: Gate) -> str:
    """Say how many graded X-rays keep what is said of them."""
    scope = gate.scope_agreement
    kept = "" if scope is None else f", {scope:.2%} their in_scope"
    return f"{gate.agreement:.2%} of {gate.samples} graded X-rays keep their class{kept}"


def _serving(files: ModelFiles) -> str:
    """Return the command that serves these files."""
    settings = [("TOOLKIT_MODELS", str(files.folder.absolute())), ("TOOLKIT_MODEL", files.name)]
    given = [f"{key}={shlex.quote(value)}" for key, value in settings]
    return " ".join([*given[files.folder == MODELS :], "bentoml serve"])
