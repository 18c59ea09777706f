"""A folder for BentoML where the user's home cannot be written, or there is none.

BentoML makes its folder before it looks at a service. It loads its extensions' commands before
that: `pyproject.toml` names this module's as one.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import click


def _prepare() -> None:
    if "BENTOML_HOME" in os.environ:
        return
    folder = Path(os.path.expanduser("~")) / "bentoml"
    try:
        folder.mkdir(exist_ok=True, parents=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            # A full disk lets files be made, and not be filled.
            probe.write(bytes(4096))
    except OSError:
        for place in (tempfile.gettempdir, lambda: "/dev/shm"):  # noqa: S108
            try:
                made = tempfile.mkdtemp(prefix="toolkit-bentoml-", dir=place())
            except OSError:
                continue
            os.environ["BENTOML_HOME"] = made
            atexit.register(shutil.rmtree, made, ignore_errors=True)
            return


_prepare()


@click.command("toolkit", hidden=True)
def command() -> None:
    """Say where BentoML keeps its files."""
    click.echo(os.environ.get("BENTOML_HOME") or Path(os.path.expanduser("~")) / "bentoml")
