"""`toolkit benchmark`: every format and precision of a model, side by side."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from toolkit.commands.options.common import (
    AgainOption,
    GroupsOption,
    ModelLabelsOption,
    annotations_of,
)
from toolkit.console import (
    LOGS,
    MODELS,
    NAME,
    Console,
    JsonOption,
    LogsOption,
    ModelsOption,
)
from toolkit.errors import UsageError
from toolkit.extras import require, require_onnxruntime
from toolkit.model.files import ModelFiles


def benchmark(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="The model's name.")] = NAME,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Graded X-rays, for the accuracy as well.")
    ] = None,
    labels: ModelLabelsOption = None,
    groups: GroupsOption = None,
    threads: Annotated[str, typer.Option(metavar="N,N", help="Numbers of threads.")] = "1,2",
    batch: Annotated[str, typer.Option(metavar="N,N", help="Batch sizes.")] = "1,8,32",
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="Rounds; a time is their median.")
    ] = 5,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Time nothing: count nodes, bytes and products.")
    ] = False,
    network: AgainOption = None,
    models: ModelsOption = MODELS,
    logs: LogsOption = LOGS,
    as_json: JsonOption = False,
) -> None:
    """Time NAME in every format and precision, from files to probabilities."""
    if roofline:
        if data or labels or groups or network:
            raise UsageError(
                "--roofline counts what the exported graph asks for: leave out --data, --labels, "
                "--groups and --network"
            )
        _count(ModelFiles(models, name), Console(as_json))
        return
    counts, batches = _numbers(threads, "--threads"), _numbers(batch, "--batch")
    for module in ("torch", "onnxscript", "matplotlib"):
        require(module, "train")
    require_onnxruntime()
    from export.benchmark import report, table
    from export.convert.pipeline import load_pipeline
    from toolkit.model import manifest

    console = Console(as_json)
    files = ModelFiles(models, name)
    record = manifest.load(files.manifest)
    said = annotations_of(data, labels, groups)
    pipeline = load_pipeline(files, record, network)
    console.notice(f"timing {name} in {rounds} rounds; keep the machine quiet")
    rows, left_out = table.benchmark(
        pipeline, record, data, counts, batches, _told(rounds, console), said
    )
    for line in left_out:
        console.notice(line)
    result, picture = report.write_report(rows, name, logs / "benchmark")
    console.result(result | {"picture": str(picture)}, f"{report.text(rows)}\npicture  {picture}")


def _count(files: ModelFiles, console: Console) -> None:
    """Print what the served graph asks of a machine."""
    require("onnx", "train")
    from export.benchmark.roofline import report
    from toolkit.model import manifest
    from toolkit.model.artifacts import check_equivalence

    check_equivalence(files, manifest.load(files.manifest), "pipeline")
    console.result(*report(files.path("pipeline")))


def _told(rounds: int, console: Console) -> Iterator[int]:
    """Yield the rounds, and say where each begins and how long all may take."""
    start = time.monotonic()
    for done in range(rounds):
        left = (time.monotonic() - start) / done * (rounds - done) if done else None
        console.notice(
            f"round {done + 1} of {rounds}" + (f", about {left:.0f} s left" if left else "")
        )
        yield done


def _numbers(text: str, option: str) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(1 <= number <= 1024 for number in numbers):
        raise UsageError(f"{option} takes numbers from 1 on with commas, such as 1,2: not {text!r}")
    return numbers
