"""`toolkit predict`: classes of X-ray files, with ONNX Runtime here or from a running service.

Of a few files they are printed; of millions, with `--out`, they are rows of one file.
"""

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from toolkit.console import MODELS, Console, JsonOption, ModelsOption
from toolkit.errors import ImageError, InterruptedRunError, ServiceError, UsageError
from toolkit.extras import require
from toolkit.model.files import SUFFIXES, kind_of, names_in

if TYPE_CHECKING:
    from toolkit.batch.run import Plan
    from toolkit.client import Client, Prediction
    from toolkit.runtime.session import Predictor

# A wrong address should not take as long to notice as a busy service may take to answer.
_FIRST_ANSWER_S = 10.0
_STDOUT = Path("-")


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE.onnx|URL",
            help="A model's name, a pipeline file, or a service as http://HOST:PORT; its token, "
            "if it asks for one, in TOOLKIT_TOKEN.",
        ),
    ],
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="PNG, JPEG or DICOM X-rays; with --out, a folder."),
    ],
    models: ModelsOption = MODELS,
    as_json: JsonOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write a row for each file of one folder or quoted pattern, however many, to "
            "FILE.parquet, .csv or .jsonl; - is JSON lines on stdout.",
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option("--engine", help="With --out: who does the work.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, max=4096, help="With --out: processes, else all cores."),
    ] = None,
) -> int:
    """Print class and probabilities of each X-ray; exit 2 if any file was refused."""
    console = Console(as_json)
    _require_model(model, models, files, out is not None)
    if out:
        return _write_rows(console, model, models, files, out, engine, workers)
    if workers or engine != "local":
        raise UsageError("--engine and --workers are of runs that write a file: give --out too")
    from toolkit.client import is_address

    if is_address(model):
        content, classes = _served(model, files)
    else:
        content, classes = _local(model, files, models, console)
    results = content["results"]
    console.result(content, "\n".join(_line(each, classes) for each in results))
    return 2 if any("error" in each for each in results) else 0


def _require_model(model: str, models: Path, files: list[str], writes_rows: bool) -> None:
    """Refuse what is neither a name, a pipeline file nor an address, and say what was meant.

    Raises:
        UsageError: see there.
    """
    from toolkit.transport import is_address

    if is_address(model):
        if writes_rows:
            raise UsageError(
                f"--out runs a model here, and {model} is a service: give NAME or FILE.onnx"
            )
    elif address := re.fullmatch(r"(?:\w*:/*)?((?:[\w.-]+|\[[\da-fA-F:]+\]):\d+(?:/.*)?)", model):
        raise UsageError(
            f"{model} is no name of a model: a service is given as http://{address[1]}"
        )
    elif not model.endswith(".onnx") and (kind := kind_of(model)):
        name = Path(model).name.removesuffix(SUFFIXES[kind])
        raise UsageError(
            f"{model} takes no X-rays: give {name} --models {Path(model).parent}, or the path of a "
            ".pipeline.onnx"
        )
    elif not model.endswith(".onnx") and Path(model).exists() and model not in names_in(models):
        raise UsageError(f"{model} is no model in {models}: give a model's name before X-rays")
    if not writes_rows and len(files) == 1 and Path(files[0]).is_dir():
        raise UsageError(f"{files[0]} is a folder: give --out too, for a row for each file")


def _local(
    model: str, files: list[str], models: Path, console: Console
) -> tuple[dict[str, Any], list[str]]:
    from toolkit.runtime.session import open_file, open_model

    if model.endswith(".onnx"):
        predictor, proven = open_file(Path(model))
        if not proven:
            console.notice(f"warning: {model} has no manifest beside it, so no proof was checked")
    else:
        predictor = open_model(models, model)
    results = [_result(predictor, file) for file in files]
    content = {"model": predictor.name, "model_sha256": predictor.sha256, "results": results}
    return content, list(predictor.meaning.classes)


def _result(predictor: "Predictor", file: str) -> dict[str, Any]:
    from toolkit.xray.reading import read_xray

    size, *channels = predictor.shape[1:]
    try:
        xray = read_xray(Path(file), size, *channels)
    except ImageError as error:
        return _refused(file, error)
    return {"file": file, **msgspec.to_builtins(predictor.answer(xray))}


def _served(url: str, files: list[str]) -> tuple[dict[str, Any], list[str]]:
    from toolkit.client import Client

    with Client(url, deadline_s=_FIRST_ANSWER_S) as client:
        info = client.info()
    with Client(url) as client:
        answers = _answers(client, files)
    for each in answers:
        if not isinstance(each, ImageError) and (
            each.model_sha256 != info["model_sha256"]
            or len(each.probabilities) != len(info["classes"])
        ):
            raise ServiceError(f"{url} serves another model than when first asked: try again")
    results = [_answer(file, each) for file, each in zip(files, answers, strict=True)]
    content = {key: info[key] for key in ("model", "model_sha256")}
    return content | {"results": results}, info["classes"]


def _answers(client: "Client", files: list[str]) -> "list[Prediction | ImageError]":
    from rich.console import Console as RichConsole
    from rich.progress import track

    screen = RichConsole(stderr=True)
    answers = client.predict_many(Path(file) for file in files)
    return list(
        track(answers, "asking", len(files), console=screen, disable=not screen.is_terminal)
    )


def _answer(file: str, answer: "Prediction | ImageError") -> dict[str, Any]:
    if isinstance(answer, ImageError):
        return _refused(file, answer)
    from toolkit.model.answer import Answer

    said = {name: getattr(answer, name) for name in Answer.__struct_fields__}
    return {"file": file, **msgspec.to_builtins(Answer(**said))}


def _refused(file: str, error: ImageError) -> dict[str, Any]:
    return {"file": file, "error": str(error), "code": error.code}


def _line(result: dict[str, Any], classes: list[str]) -> str:
    if "error" in result:
        reason = result["error"].removeprefix(f"{result['file']}: ")
        return f"{result['file']}  refused: {reason}"
    pairs = zip(classes, result["probabilities"], strict=True)
    shares = "  ".join(f"{name} {value:.1%}" for name, value in pairs)
    unsure = "  unsure" if result.get("abstain") else ""
    foreign = "" if result.get("in_scope", True) else "  not like the X-rays it knows"
    decision = f"  decision: {result['decision']}" if "decision" in result else ""
    return f"{result['file']}  {result['label']}  ({shares}){decision}{unsure}{foreign}"


def _write_rows(
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
    if out == _STDOUT:
        console.notice(_counts(out, content))
        return 0
    named = {name: plan.setup[name] for name in ("model", "model_sha256", "provider", "toolkit")}
    console.result({"out": str(out), **named, "engine": engine, **content}, _counts(out, content))
    return 0


@contextmanager
def _destination(out: Path, as_json: bool) -> Iterator[Path]:
    """Yield the file to write; what was written for stdout goes there."""
    if out != _STDOUT:
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


def _counts(out: Path, content: dict[str, Any]) -> str:
    files, per_second = content["files"], content["per_second"]
    lines = [f"{out}: {files:,} file{'s' * (files != 1)}, {per_second:,.1f} X-rays a second"]
    lines += [f"  {count:,}  {label}" for label, count in content["classes"].items()]
    lines += [f"  {count:,}  error {code}" for code, count in content["errors"].items()]
    return "\n".join(lines)
