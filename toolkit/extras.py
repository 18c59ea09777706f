"""Imports optional packages; where one is missing, the error has the pip line that installs it."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from toolkit.errors import MissingExtraError

DRIVER_FILE = Path("/proc/driver/nvidia/version")
GPU_FILES = (DRIVER_FILE, Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""One of them is there where NVIDIA's driver is."""
ONNXRUNTIME_EXTRAS = {"onnxruntime": "cpu", "onnxruntime-gpu": "gpu"}


def require(module: str, extra: str) -> ModuleType:
    """Import and return a module that an extra installs.

    Raises:
        MissingExtraError: it is not installed; the message has the pip line.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name or module} is not installed: pip install 'toolkit[{extra}]'"
        ) from error


def require_onnxruntime() -> ModuleType:
    """Import and return onnxruntime, of whichever of the two extras is installed.

    Raises:
        MissingExtraError: neither is installed, or both are.
    """
    found = [name for name in ONNXRUNTIME_EXTRAS if _version(name)]
    if len(found) > 1:
        raise MissingExtraError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'toolkit[cpu]' "
            "or 'toolkit[gpu]'"
        )
    if not found:
        raise MissingExtraError(
            "onnxruntime is not installed: pip install 'toolkit[cpu]', or 'toolkit[gpu]' where "
            "there is an NVIDIA driver"
        )
    return import_module("onnxruntime")


def versions(*distributions: str) -> dict[str, str]:
    """Return the installed versions of those distributions that are there."""
    return {name: found for name in distributions if (found := _version(name))}


def _version(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
