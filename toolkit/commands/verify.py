"""`toolkit verify`: every file of a model, and a running service, against PyTorch."""

from pathlib import Path
from typing import Annotated

import typer

from toolkit.console import MODELS, NAME, Console, JsonOption, ModelsOption
from toolkit.errors import EquivalenceError
from toolkit.extras import require, require_onnxruntime
from toolkit.model.files import ModelFiles


def verify(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="The model's name.")] = NAME,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="A running service to compare as well.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Real X-rays to compare on as well.")
    ] = None,
    models: ModelsOption = MODELS,
    as_json: JsonOption = False,
) -> None:
    """Compare NAME's files with PyTorch again; writes NAME.equivalence.json and .html."""
    require("torch", "train")
    require_onnxruntime()
    from export.compare.report import write_report
    from export.verify import verify as run

    console = Console(as_json)
    files = ModelFiles(models, name)
    result = run(files, data, url)
    written = write_report(result, files)
    for finding in result.findings:
        console.notice(f"warning: {finding.text}")
    if not result.passed:
        console.notices(result.failures, f"the report is {written}")
        raise EquivalenceError(f"{name} is not equal to PyTorch: {result.failures[0]}")
    text = [
        f"{kind:12} {output.output:14} max {output.max_abs:.2g}  mean {output.mean_abs:.2g}  "
        f"99 % below {output.p99_abs:.2g}  ULP {output.max_ulp:.0f}  ({leg.provider})"
        for kind, leg in result.legs.items()
        for output in leg.outputs
    ]
    console.result(
        result.as_dict() | {"report": str(written)},
        "\n".join([*text, f"equal to PyTorch; the report is {written}"]),
    )
