"""Folders for BentoML where its own cannot be written, and paths as the caller means them.

BentoML makes its folders before it looks at a service, for which it goes to the service's folder.
It loads its extensions' commands before that: `pyproject.toml` names this module's as one.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import click

from toolkit import bentoml_home


def _prepare() -> None:
    bentoml_home.anchor_paths(os.getcwd())
    try:
        tempfile.gettempdir()
    except OSError:
        os.environ["TMPDIR"] = bentoml_home.IN_MEMORY
    given = os.environ.get("BENTOML_HOME")
    if (
        bentoml_home.has_folders(Path(given))
        if given
        else bentoml_home.usable(bentoml_home.default())
    ):
        return
    made = bentoml_home.substitute()
    if made:
        os.environ["BENTOML_HOME"] = str(made)
        atexit.register(shutil.rmtree, made, ignore_errors=True)


_prepare()


@click.command("toolkit", hidden=True)
def command() -> None:
    """Say where BentoML keeps its files."""
    click.echo(os.environ.get("BENTOML_HOME") or bentoml_home.default())
