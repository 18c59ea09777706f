"""The zip archive that `torch.save` writes: torch is given a copy of what was checked in it."""

import io
import warnings
import zipfile
from typing import Any

import torch
from torch import nn

from toolkit.errors import CheckpointError
from toolkit.original.opcodes import LAYERS, STUDY, quote, translate

MAX_BYTES = 2**31
"""Largest file: the largest network that the toolkit trains has 1.9 GB of float32 weights."""
MAX_ENTRIES = 10_000
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_ENTRY = b"PK\x01\x02"
_PICKLE = "/data.pkl"


class StudyModule(nn.Module):
    """What the study's own class becomes: a module with the study's parts and no method."""


def load(content: bytes) -> Any:
    """Return the module or the state_dict in an archive, on the CPU.

    Nothing is decompressed, and nothing is larger than the archive.

    Args:
        content: the bytes of the file.

    Raises:
        CheckpointError: not such an archive, damaged, compressed, too large, or with anything in
            it that no model of the study needs; the message names it.
    """
    archive = _copy(content)
    trusted: list[Any] = [*LAYERS, (StudyModule, STUDY)]
    try:
        # What torch warns of does not matter: weights are copied.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(trusted):
            return torch.load(archive, map_location="cpu", weights_only=True)
    except Exception as error:  # it raises anything
        raise CheckpointError(f"its pickle is damaged: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return what torch says of a file, without its advice to trust it."""
    reason = str(error)[:10_000].rpartition("error: ")[2].strip().partition("\n")[0]
    return quote(reason)


def _copy(content: bytes) -> io.BytesIO:
    """Return an archive with the pickle and its numbers, once they are checked."""
    archive = _open(content)
    names = {entry.filename: entry for entry in archive.infolist()}
    roots = [name.removesuffix(_PICKLE) for name in names if name.endswith(_PICKLE)]
    if len(roots) != 1 or "/" in roots[0]:
        raise CheckpointError("it is not a file of torch.save: it has no one data.pkl")
    (root,) = roots
    if f"{root}/byteorder" in names and _read(archive, f"{root}/byteorder") != b"little":
        raise CheckpointError("its numbers are big-endian, which is not read")
    storages = set()

    def check_storage(key: str, numel: int, size: int) -> None:
        entry = names.get(f"{root}/data/{key}")
        if entry is None:
            raise CheckpointError(f"its storage {quote(key)} is missing")
        if entry.file_size != numel * size:
            raise CheckpointError(
                f"its storage {quote(key)} has {entry.file_size} bytes, and should have {numel} "
                f"numbers of {size} bytes"
            )
        storages.add(key)

    pickled = translate(_read(archive, root + _PICKLE), check_storage)
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as written:
        written.writestr("copy/data.pkl", pickled)
        written.writestr("copy/version", "3\n")
        for key in storages:
            written.writestr(f"copy/data/{key}", _read(archive, f"{root}/data/{key}"))
    copy.seek(0)
    return copy


def _open(content: bytes) -> zipfile.ZipFile:
    if content.startswith(_LEGACY):
        raise CheckpointError(
            "it is in the format of before PyTorch 1.6, which is not read: where you trust it, "
            "save it again with a newer one"
        )
    if content.count(_ENTRY) > MAX_ENTRIES:
        raise CheckpointError(f"it has more than {MAX_ENTRIES} entries")
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except Exception as error:  # damaged bytes make the parser raise anything
        raise CheckpointError(
            "it is damaged, or not a file of torch.save or safetensors"
        ) from error
    if len(archive.NameToInfo) != len(archive.infolist()):
        raise CheckpointError("it has two entries of one name")
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise CheckpointError(
                f"its entry {quote(entry.filename)} is compressed, which torch.save never does"
            )
    if sum(entry.file_size for entry in archive.infolist()) > len(content):
        raise CheckpointError("its entries overlap, or claim more bytes than it has")
    return archive


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except Exception as error:  # a wrong checksum, or whatever else damaged bytes lead to
        raise CheckpointError(f"its entry {quote(name)} is damaged") from error
