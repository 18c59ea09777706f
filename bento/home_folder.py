"""Where BentoML keeps its files, and what takes its place where that cannot be written."""

import os
import tempfile
from pathlib import Path


def default() -> Path:
    """Return the folder that BentoML takes where BENTOML_HOME is not set."""
    return Path(os.path.expanduser("~")) / "bentoml"


def usable(folder: Path) -> bool:
    """Return whether the folder is there or can be made, and takes files."""
    try:
        folder.mkdir(exist_ok=True, parents=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            # A full disk lets files be made, and not be filled.
            probe.write(bytes(4096))
    except OSError:
        return False
    return True


def substitute() -> Path | None:
    """Make a folder in the temporary folder, or else in memory; None where neither can be."""
    for place in (tempfile.gettempdir, lambda: "/dev/shm"):  # noqa: S108
        try:
            return Path(tempfile.mkdtemp(prefix="toolkit-bentoml-", dir=place()))
        except OSError:
            continue
    return None
