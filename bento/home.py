"""A folder for BentoML where the user's home cannot be written, or there is none.

BentoML makes its folder before it looks at a service. It loads its extensions' commands before
that: `pyproject.toml` names this module's as one.
"""

import atexit
import os
import shutil

import click

from bento import home_folder


def _prepare() -> None:
    if "BENTOML_HOME" in os.environ or home_folder.usable(home_folder.default()):
        return
    made = home_folder.substitute()
    if made:
        os.environ["BENTOML_HOME"] = str(made)
        atexit.register(shutil.rmtree, made, ignore_errors=True)


_prepare()


@click.command("toolkit", hidden=True)
def command() -> None:
    """Say where BentoML keeps its files."""
    click.echo(os.environ.get("BENTOML_HOME") or home_folder.default())
