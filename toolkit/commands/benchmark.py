"""`toolkit benchmark`: every format and precision of a model, side by side."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

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

GENERATED_COUNT = 96


def benchmark(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="The model's name.")] = NAME,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Graded X-rays, for the accuracy as well.")
    ] = None,
    threads: Annotated[str, typer.Option(metavar="N,N", help="Numbers of threads.")] = "1,2",
    batch: Annotated[str, typer.Option(metavar="N,N", help="Batch sizes.")] = "1,8,32",
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, max=1000, help="Rounds; a time is their median.")
    ] = 5,
    models: ModelsOption = MODELS,
    logs: LogsOption = LOGS,
    as_json: JsonOption = False,
) -> None:
    """Time NAME in every format and precision, from files to probabilities."""
    counts, batches = _numbers(threads, "--threads"), _numbers(batch, "--batch")
    for module in ("torch", "onnxscript", "matplotlib"):
        require(module, "train")
    require_onnxruntime()
    import json
    from dataclasses import asdict
    from tempfile import TemporaryDirectory

    from export.benchmark.contenders import contenders
    from export.benchmark.picture import draw
    from export.benchmark.table import (
        generated_xrays,
        judge,
        measure,
        ratios,
        xrays_of,
    )
    from export.convert.pipeline import load_pipeline
    from toolkit.files import write_bytes
    from toolkit.model import manifest

    console = Console(as_json)
    files = ModelFiles(models, name)
    record = manifest.load(files.manifest)
    pipeline = load_pipeline(files, record)
    xrays = xrays_of(data, record) if data else generated_xrays(GENERATED_COUNT)
    console.notice(f"timing {name} in {rounds} rounds; keep the machine quiet")
    with TemporaryDirectory() as folder:
        each = contenders(pipeline, record, Path(folder), xrays.graded)
        judgements, left_out = judge(each, xrays)
        if all(one.contender.format != "reference path" for one in judgements):
            left_out.append("no reference path: it needs OpenCV, pip install 'toolkit[dev]'")
        for line in left_out:
            console.notice(line)
        rows = measure(judgements, xrays, counts, batches, _told(rounds, console))
    result = {"name": name, "rows": [asdict(row) for row in rows], "ratios": ratios(rows)}
    folder_of_logs = logs / "benchmark"
    picture = folder_of_logs / f"{name}.png"
    write_bytes(folder_of_logs / f"{name}.json", f"{json.dumps(result, indent=2)}\n".encode())
    draw(rows, f"{name}: from X-rays to probabilities", picture)
    head = (
        f"{'format':15}{'precision':10}{'provider':11}{'from':7}{'threads':>7}{'batch':>6}{'ms':>8}"
        f"{'X-rays/s':>10}{'KiB':>7}{'accuracy':>9}{'kappa':>7}{'agrees':>9}"
    )
    lines = [
        f"{row.format:15}{row.precision:10}{row.provider:11}{row.source:7}{row.threads:7}"
        f"{row.batch:6}{row.ms:8.2f}{row.xrays_per_second:10.0f}"
        f"{_shown(row.bytes and row.bytes / 1024, '.0f'):>7}{_shown(row.accuracy, '.1%'):>9}"
        f"{_shown(row.kappa, '.3f'):>7}{row.agreement:9.2%}"
        for row in rows
    ]
    compared = [f"{what}: {ratio:.2f}x" for what, ratio in ratios(rows).items()]
    console.result(
        result | {"picture": str(picture)},
        "\n".join([head, *lines, *compared, f"picture  {picture}"]),
    )


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
        numbers = [int(each) for each in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(1 <= number <= 1024 for number in numbers):
        raise UsageError(f"{option} takes numbers from 1 on with commas, such as 1,2: not {text!r}")
    return numbers


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
