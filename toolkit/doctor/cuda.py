"""Which NVIDIA driver a build of ONNX Runtime needs, and whether an image's build gets it."""

import re
from pathlib import Path

from toolkit.errors import UsageError

LEAST_DRIVER = {11: (450,), 12: (525,), 13: (580,)}
"""The oldest driver that runs programs of each CUDA major version."""
_FIRST_CUDA_13 = (1, 27)
_REQUIREMENT = re.compile(r"""onnxruntime-gpu\s*(?:\[[\w,\s-]*\])?([^"'#;\n]*)""")
_BOUND = re.compile(r"(==|<=|<|>=|>|~=)\s*(\d+(?:\.\d+)*)")


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


def image_requirement(lock: Path) -> str:
    """Return the version of onnxruntime-gpu that the image installs, such as `==1.31.1`.

    Raises:
        UsageError: no such file, or it does not ask for onnxruntime-gpu.
    """
    try:
        text = lock.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read {lock}: run this in the toolkit's repository, or restore the file"
        ) from error
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    found = next((match for line in lines if (match := _REQUIREMENT.search(line))), None)
    if not found:
        raise UsageError(f"{lock} asks for no onnxruntime-gpu: the image has no GPU in it")
    return re.sub(r"\s|\\", "", found[1])


def image_major(requirement: str) -> int:
    """Return the CUDA major version of the newest onnxruntime-gpu in a range; pip takes that one.

    Raises:
        UsageError: a bound that is no version.
    """
    for operator, text in _BOUND.findall(requirement):
        version = version_of(text)
        if operator == "<" and version <= _FIRST_CUDA_13:
            return 12
        # ~=1.26 takes any 1.x, ~=1.26.0 any 1.26.x.
        fixed = operator in ("==", "<=") or (operator == "~=" and len(version) > 2)
        if fixed and version[:2] < _FIRST_CUDA_13:
            return 12
    return 13
