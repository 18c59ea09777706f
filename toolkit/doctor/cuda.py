"""Which NVIDIA driver a build of ONNX Runtime needs, and whether an image's build gets it."""

import re
from pathlib import Path

from toolkit.errors import UsageError

LEAST_DRIVER = {11: (450,), 12: (525,), 13: (580,)}
"""The oldest driver that runs programs of each CUDA major version."""
_FIRST_CUDA_13 = (1, 27)
_PIN = re.compile(r"^onnxruntime-gpu==([\w.]+)", re.MULTILINE)


def version_of(text: str) -> tuple[int, ...]:
    """Return the numbers of a version such as 580.65.06.

    Raises:
        UsageError: it is not made of numbers and dots.
    """
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6}){0,3}", text):
        raise UsageError(f"{text!r} is not a version: give one such as 580.65.06")
    return tuple(int(each) for each in text.split("."))


def major_of_onnxruntime(version: str) -> int:
    """Return the CUDA major version that onnxruntime-gpu was built with, by its own version."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return 12 if found and (int(found[1]), int(found[2])) < _FIRST_CUDA_13 else 13


def least_driver(major: int) -> tuple[int, ...]:
    """Return the oldest driver for a CUDA major version; of a newer one than is known, 580."""
    return LEAST_DRIVER.get(major, LEAST_DRIVER[max(LEAST_DRIVER)])


def image_version(lock: Path) -> str:
    """Return the version of onnxruntime-gpu that the GPU image installs, such as 1.31.1.

    Raises:
        UsageError: no such file, or it does not pin onnxruntime-gpu.
    """
    try:
        found = _PIN.search(lock.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read {lock}: run this in the toolkit's repository, or restore the file"
        ) from error
    if not found:
        raise UsageError(f"{lock} pins no onnxruntime-gpu: lock anew with `make lock`")
    return found[1]
