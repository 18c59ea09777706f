"""Folders for BentoML where its own cannot be written, or there are none.

BentoML makes its folders before it looks at a service. It loads its extensions' commands before
that: `pyproject.toml` names this module's as one.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import click

_FOLDERS = ("bentos", "models", "envs", "tmp")
_IN_MEMORY = "/dev/shm"  # noqa: S108


def _prepare() -> None:
    try:
        tempfile.gettempdir()
    except OSError:
        os.environ["TMPDIR"] = _IN_MEMORY
    given = os.environ.get("BENTOML_HOME")
    if _has_folders(Path(given)) if given else _can_grow(Path(os.path.expanduser("~")) / "bentoml"):
        return
    for place in (tempfile.gettempdir, lambda: _IN_MEMORY):
        try:
            made = tempfile.mkdtemp(prefix="toolkit-bentoml-", dir=place())
        except OSError:
            continue
        if _has_folders(Path(made)):
            os.environ["BENTOML_HOME"] = made
            atexit.register(shutil.rmtree, made, ignore_errors=True)
            return


def _has_folders(home: Path) -> bool:
    """Whether BentoML finds or can make its folders: a home may be full of bentos, and final."""
    try:
        for each in _FOLDERS:
            (home / each).mkdir(exist_ok=True, parents=True)
    except OSError:
        return False
    return True


def _can_grow(home: Path) -> bool:
    try:
        home.mkdir(exist_ok=True, parents=True)
        with tempfile.TemporaryFile(dir=home) as probe:
            # A full disk lets files be made, and not be filled.
            probe.write(bytes(4096))
    except OSError:
        return False
    return True


_prepare()


@click.command("toolkit", hidden=True)
def command() -> None:
    """Say where BentoML keeps its files."""
    click.echo(os.environ.get("BENTOML_HOME") or Path(os.path.expanduser("~")) / "bentoml")
