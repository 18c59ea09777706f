"""`toolkit predict --out`: a row for each of millions of files, in one file."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from toolkit.console import Console
from toolkit.errors import InterruptedRunError, UsageError
from toolkit.extras import require

if TYPE_CHECKING:
    from toolkit.batch.run import Plan

STDOUT = Path("-")


def predict_batch(
    console: Console,
    model: str,
    models: Path,
    sources: list[str],
    out: Path,
    engine: str,
    workers: int | None,
) -> int:
    """Write a row for each file of a folder or pattern to `out`, or go on with doing so.

    Raises:
        UsageError: several sources, a file of another kind or in no folder, or as
            `toolkit.batch.run.finish` does, with its other errors.
    """
    require("pyarrow", "batch")
    from toolkit.batch import cluster, run

    with _destination(out, console.as_json) as file:
        plan = _plan(console, model, models, sources, file)
        content = run.finish(plan, {"local": run.local, "ray": cluster.ray}[engine], workers)
    if out == STDOUT:
        console.notice(_text(out, content))
        return 0
    named = {name: plan.setup[name] for name in ("model", "model_sha256", "provider", "toolkit")}
    console.result({"out": str(out), **named, "engine": engine, **content}, _text(out, content))
    return 0


@contextmanager
def _destination(out: Path, as_json: bool) -> Iterator[Path]:
    """Yield the file to write; what was written for stdout goes there."""
    if out != STDOUT:
        yield out
        return
    if as_json:
        raise UsageError("--out - prints rows and --json one object: give one of the two")
    with TemporaryDirectory(prefix="toolkit-") as folder:
        file = Path(folder) / "rows.jsonl"
        try:
            yield file
        except InterruptedRunError:
            raise InterruptedRunError("stopped: rows for stdout are not kept") from None
        with file.open("rb") as lines:
            shutil.copyfileobj(lines, sys.stdout.buffer)


def _plan(console: Console, model: str, models: Path, sources: list[str], out: Path) -> "Plan":
    from toolkit.batch import run
    from toolkit.batch.paths import split
    from toolkit.batch.rows import format_of
    from toolkit.batch.worker import Job
    from toolkit.batch.workspace import Workspace
    from toolkit.files import require_parent
    from toolkit.runtime.providers import PROVIDERS

    format_of(out)
    require_parent(out)
    if len(sources) != 1:
        raise UsageError(
            f"--out takes one folder or one pattern, not {len(sources)} files: quote the pattern"
        )
    folder, pattern = split(sources[0])
    folder = folder.resolve()
    if model.endswith(".onnx"):
        model = str(Path(model).resolve())
    predictor, proven = Job(model, models, None, folder).open()
    if not proven:
        console.notice(f"warning: {model} has no manifest beside it, so no proof was checked")
    provider = {provider: name for name, provider in PROVIDERS.items()}[predictor.provider]
    job = Job(model, models.resolve(), predictor.sha256, folder, provider)
    setup = run.setup(predictor, folder, pattern)
    return run.Plan(job, pattern, setup, Workspace(out.absolute()))


def _text(out: Path, content: dict[str, Any]) -> str:
    files, per_second = content["files"], content["per_second"]
    lines = [f"{out}: {files:,} file{'s' * (files != 1)}, {per_second:,.1f} X-rays a second"]
    lines += [f"  {count:,}  {label}" for label, count in content["classes"].items()]
    lines += [f"  {count:,}  error {code}" for code, count in content["errors"].items()]
    return "\n".join(lines)
