"""The command line: puts the commands together and turns errors into one line and an exit code."""

import errno
import io
import json
import os
import select
import sys
from typing import Annotated, Any, TextIO

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
    init,
    list_,
    operating_point,
    package,
    predict,
    rename,
    train,
    tune,
    verify,
)
from toolkit.errors import InterruptedRunError, ToolkitError, is_out_of_memory, printable
from toolkit.extras import versions

INTERRUPTED = InterruptedRunError.exit_code
_STDOUT, _STDERR = 1, 2
UNREAD = 141
"""The exit code where the reader of stdout went away: as a shell counts a death by SIGPIPE."""

app = typer.Typer(
    name="toolkit",
    help="Train an X-ray network, export it, prove the export equal, and serve it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(versions("toolkit").get("toolkit", "unknown"))
        raise typer.Exit


_VERSION = typer.Option(
    "--version", callback=_tell_version, is_eager=True, help="Print the version and exit."
)


@app.callback()
def _root(_: Annotated[bool, _VERSION] = False) -> None:
    pass


app.command("train")(train.train)
app.add_typer(tune.app, name="tune")
app.command("import")(import_.import_)
app.command("init")(init.init)
app.command("list")(list_.list_)
app.command("rename")(rename.rename)
app.command("evaluate")(evaluate.evaluate)
app.command("operating-point")(operating_point.operating_point)
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
    """Run the command line and exit.

    0, 1 for a failed check, 2 for wrong use or bad input; `UNREAD` where all went well, but
    nobody read the result.
    """
    # Dependencies read these when they are imported; nobody is told what runs here.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
    _open_streams()
    code = _run(sys.argv[1:])
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = raw.failure if isinstance(raw, _Outlet) else None
    if failure and failure.errno != errno.EPIPE:
        _tell(f"cannot write the result: {failure.strerror}")
    if failure and code == 0:
        code = UNREAD if failure.errno == errno.EPIPE else 2
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        result = app(arguments, standalone_mode=False)
    except ToolkitError as error:
        return _failed(str(error), error.exit_code, arguments)
    except TyperException as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        return _failed(f"{message} (see --help)", 2, arguments)
    except Exception as error:
        if not isinstance(error, OSError) and not is_out_of_memory(error):
            raise
        return _failed(f"cannot go on: {str(error) or 'no memory is left'}", 2, arguments)
    except SystemExit as ended:
        # Typer ends so, with the code of a failed check, wherever a pipe breaks.
        return _failed(f"cannot go on: {ended.__context__ or ended}", 2, arguments)
    if result == INTERRUPTED:
        # Typer turns Ctrl-C into this exit code and prints nothing.
        return _failed("stopped", INTERRUPTED, arguments)
    return result if isinstance(result, int) else 0


def _failed(message: str, code: int, arguments: list[str]) -> int:
    line = _tell(message)
    if "--json" in arguments:
        print(json.dumps({"error": line}), flush=True)
    return code


def _tell(message: str) -> str:
    line = printable(message)
    print(f"error: {line}", file=sys.stderr)
    return line


class _Outlet(io.FileIO):
    """Stdout or stderr, which takes everything; after a first failure it drops the rest.

    Attributes:
        failure: the first one; None as long as all was written.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self.failure:
            return size
        try:
            # None means that the pipe does not block and is full.
            while (count := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as error:
            self.failure = error
            return size
        return count


def _open_streams() -> None:
    """Make stdout and stderr such that no write to them raises, even where they are closed."""
    # Otherwise the next file that is opened would get the number of a closed stdout or stderr.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    # Whoever calls `main` from Python may have put something else in their place.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(sys.stdout, _STDOUT)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(sys.stderr, _STDERR)


def _stream(stream: TextIO | None, descriptor: int) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(_Outlet(descriptor, "w", closefd=False)),
        encoding=stream.encoding if stream else None,
        # Not every terminal has every letter.
        errors="backslashreplace",
        line_buffering=descriptor == _STDERR or os.isatty(descriptor),
    )
