"""The command line as tests run it: in this process, or installed, in one of its own.

What needs a process of its own (signals, limits, another environment) runs the installed
`toolkit`; the rest runs the same `main` here, without the seconds that PyTorch takes to be
imported.
"""

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

TOOLKIT = Path(sys.executable).with_name("toolkit")
PATIENCE_S = 120


class Said(NamedTuple):
    """How a command ended: its exit code, and what it wrote to stdout and stderr."""

    code: int
    out: str
    err: str


def clean_environment(**more):
    """An environment without settings of whoever runs the tests, and with those that are given."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TOOLKIT_", "PYTHONPATH"))}
    # One thread: two would wait for each other on a busy machine.
    return clean | {"OMP_NUM_THREADS": "1"} | more


def run_installed(*words, cwd=None, **environment):
    """Run the installed `toolkit` in a process of its own."""
    done = subprocess.run(
        [TOOLKIT, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=clean_environment(**environment),
        timeout=PATIENCE_S,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def begin(*words, cwd=None, **environment):
    """Begin the installed `toolkit`; it hears Ctrl-C even where who runs the tests ignores it."""
    return subprocess.Popen(
        [TOOLKIT, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=clean_environment(**environment),
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def here(*words, cwd=".", **environment):
    """As `run_installed`, in this process: what would be a traceback there fails the test here."""
    from toolkit import cli

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["toolkit", *map(str, words)])
        for name in [each for each in os.environ if each.startswith("TOOLKIT_")]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return Said(ended.value.code, out.getvalue(), err.getvalue())


def json_of(said):
    """The one JSON object on stdout."""
    assert said.out.count("\n") == 1, said
    content = json.loads(said.out)
    assert isinstance(content, dict)
    return content


def ok(*words, runner=here, **more):
    """The JSON object of a command that must succeed, and what it said on stderr."""
    said = runner(*words, "--json", **more)
    assert said.code == 0, said.err
    return json_of(said), said.err


def run(*words):
    """The JSON object of a command that must succeed, whatever it said on stderr."""
    return ok(*words)[0]


def refused(*words, runner=here, **more):
    """The one line of a command that must be refused, and the same in JSON."""
    said = runner(*words, "--json", **more)
    assert said.code == 2, said.err
    assert "Traceback" not in said.err
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said.err.rstrip().endswith(errors[0]), said.err
    message = errors[0].removeprefix("error: ")
    assert json_of(said) == {"error": message}
    return message
