"""`toolkit verify`: every file of a model, and a running service, against PyTorch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.commands.options.common import (
    AgainOption,
    GroupsOption,
    ModelLabelsOption,
    annotations_of,
)
from toolkit.console import MODELS, NAME, Console, JsonOption, ModelsOption
from toolkit.errors import CheckFailedError, EquivalenceError, UsageError, numbered
from toolkit.extras import require, require_onnxruntime
from toolkit.model.files import ModelFiles

if TYPE_CHECKING:
    from export.compare.report import Equivalence


def verify(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="The model's name.")] = NAME,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="A running service to compare as well.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Real X-rays to compare on as well.")
    ] = None,
    labels: ModelLabelsOption = None,
    groups: GroupsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the report goes; else beside the model."),
    ] = None,
    network: AgainOption = None,
    models: ModelsOption = MODELS,
    as_json: JsonOption = False,
) -> None:
    """Compare NAME's files with PyTorch again, and print the verdict.

    Writes the report NAME.equivalence.html and .json, and the verdict into NAME.json; where they
    cannot be written it says so, and the verdict stands.
    """
    require("torch", "train")
    require_onnxruntime()
    from export.compare.report import write_report
    from export.verify import verify as run
    from toolkit.files import require_parent, require_writable

    console = Console(as_json)
    files = ModelFiles(models, name)
    if out:
        require_parent(out)
        require_writable(out, "--out")
    result = run(files, data, url, annotations_of(data, labels, groups), network)
    lines = result.failures
    failure = "" if result.passed else f"{name} is not equal to PyTorch: {lines[0]}"
    if not as_json:
        console.result({}, failure or _text(name, result))
    unwritten = [f"the verdict is not kept: {result.unkept}"] if result.unkept else []
    report: Path | None = None
    try:
        report = write_report(result, files, out)
    except UsageError as error:
        unwritten.append(f"there is no report: {error} with --out")
    for warning in [finding.text for finding in result.findings] + unwritten:
        console.notice(f"warning: {warning}")
    console.notices(lines, numbered(len(lines), "failure"))
    if report and not as_json:
        console.result({}, f"the report is {report}")
    if failure:
        if result.unreached:
            console.notice(f"warning: {result.unreached}")
        raise EquivalenceError(failure)
    if result.unreached:
        raise CheckFailedError(
            f"{name} is equal to PyTorch, but the service was not compared: {result.unreached}"
        )
    if as_json:
        console.result(result.as_dict() | {"report": report and str(report)}, "")


def _text(name: str, result: "Equivalence") -> str:
    return "\n".join(
        [f"{name} is equal to PyTorch"]
        + [
            f"{kind:12} {output.output:14} max {output.max_abs:.2g}  mean {output.mean_abs:.2g}  "
            f"99 % below {output.p99_abs:.2g}  ULP {output.max_ulp:.0f}  ({leg.provider})"
            for kind, leg in result.legs.items()
            for output in leg.outputs
        ]
    )
