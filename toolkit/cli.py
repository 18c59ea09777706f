"""The command line: puts the commands together and turns errors into one line and an exit code."""

import io
import json
import os
import sys
from contextlib import suppress

import typer
from typer.exceptions import TyperException

from toolkit.commands import (
    benchmark,
    card,
    data,
    doctor,
    evaluate,
    explain,
    export,
    import_,
    package,
    predict,
    train,
    tune,
    verify,
)
from toolkit.errors import InterruptedRunError, ToolkitError, printable

INTERRUPTED = InterruptedRunError.exit_code

app = typer.Typer(
    name="toolkit",
    help="Train a two-input X-ray network, export it, prove the export equal, and serve it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("train")(train.train)
app.add_typer(tune.app, name="tune")
app.command("import")(import_.import_)
app.command("evaluate")(evaluate.evaluate)
app.command("export")(export.export)
app.command("verify")(verify.verify)
app.command("benchmark")(benchmark.benchmark)
app.command("card")(card.card)
app.command("doctor")(doctor.doctor)
app.command("explain")(explain.explain)
app.command("package")(package.package)
app.command("predict")(predict.predict)
data_app = typer.Typer(help="Generate X-rays, or look at a folder of them.", no_args_is_help=True)
data_app.command("generate")(data.generate)
data_app.command("inspect")(data.inspect)
app.add_typer(data_app, name="data")


def main() -> None:
    """Run the command line and exit: 0, 1 for a failed check, 2 for wrong use or bad input."""
    # Dependencies read these when they are imported; nobody is told what runs here.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
    # Not every terminal has every letter.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    code = _run(sys.argv[1:])
    _flush_stdout()
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        result = app(arguments, standalone_mode=False)
    except ToolkitError as error:
        return _failed(str(error), error.exit_code, arguments)
    except TyperException as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        return _failed(f"{message} (see --help)", 2, arguments)
    except BrokenPipeError:
        return _failed("the reader of the output went away", 2, [])
    except OSError as error:
        return _failed(f"cannot go on: {error}", 2, arguments)
    if result == INTERRUPTED:
        # Typer turns Ctrl-C into this exit code and prints nothing.
        return _failed("stopped", INTERRUPTED, arguments)
    return result if isinstance(result, int) else 0


def _failed(message: str, code: int, arguments: list[str]) -> int:
    line = printable(message)
    print(f"error: {line}", file=sys.stderr)
    if "--json" in arguments:
        # Stdout may be a file on the disk that is full.
        with suppress(OSError):
            print(json.dumps({"error": line}), flush=True)
    return code


def _flush_stdout() -> None:
    # Python exits with 120 if it cannot write what is left in the buffer: to a full disk, or a
    # closed pipe.
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
