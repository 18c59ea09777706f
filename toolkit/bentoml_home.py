"""Where BentoML keeps its files, and what takes its place where that cannot be written."""

import os
import tempfile
from pathlib import Path

_PATHS = ("TOOLKIT_MODELS", "BENTOML_CONFIG", "BENTOML_HOME")
IN_MEMORY = "/dev/shm"  # noqa: S108
_FOLDERS = ("bentos", "models", "envs", "tmp")


def anchor_paths(folder: str) -> None:
    """Make absolute what the environment names by a path: relative ones are from a folder."""
    # An empty one is none; BentoML would take the folder that it is in for its home.
    if os.environ.get("BENTOML_HOME") == "":
        del os.environ["BENTOML_HOME"]
    for name in _PATHS:
        path = os.environ.get(name)
        # BentoML puts variables in their place.
        if path and not path.startswith("$"):
            os.environ[name] = os.path.abspath(os.path.join(folder, path))


def default() -> Path:
    """Return the folder that BentoML takes where BENTOML_HOME is not set."""
    return Path(os.path.expanduser("~")) / "bentoml"


def has_folders(home: Path) -> bool:
    """Whether BentoML finds or can make its folders: a home may be full of bentos, and final."""
    try:
        for each in _FOLDERS:
            (home / each).mkdir(exist_ok=True, parents=True)
    except OSError:
        return False
    return True


def usable(home: Path) -> bool:
    """Return whether the folder is there or can be made, and takes files."""
    try:
        home.mkdir(exist_ok=True, parents=True)
        with tempfile.TemporaryFile(dir=home) as probe:
            # On a full disk an empty file can be made, but nothing can be written to it.
            probe.write(bytes(4096))
    except OSError:
        return False
    return True


def substitute() -> Path | None:
    """Make a home in the temporary folder, or else in memory; None where neither can be."""
    for place in (tempfile.gettempdir, lambda: IN_MEMORY):
        try:
            made = Path(tempfile.mkdtemp(prefix="toolkit-bentoml-", dir=place()))
        except OSError:
            continue
        if has_folders(made):
            return made
    return None
