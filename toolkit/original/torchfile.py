"""The zip archive that `torch.save` writes, in memory: checked, and never decompressed."""

import io
import zipfile
from typing import Any

from toolkit.errors import CheckpointError
from toolkit.original import inert
from toolkit.original.inert import Storage, shown

MAX_BYTES = 2**28
MAX_PICKLE_BYTES = 2**21
MAX_ENTRIES = 10_000
_FLOAT_BYTES = 4
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_ENTRY = b"PK\x01\x02"
_PICKLE = "/data.pkl"


class TorchFile:
    """One archive.

    Args:
        content: the bytes of the file.

    Raises:
        CheckpointError: not such an archive, damaged, compressed, or too large.
    """

    def __init__(self, content: bytes) -> None:
        if len(content) > MAX_BYTES:
            raise CheckpointError(f"it has more than {MAX_BYTES >> 20} MiB")
        if content.startswith(_LEGACY):
            raise CheckpointError(
                "it is in the format of before PyTorch 1.6, which is not read: where you trust "
                "it, save it again with a newer one"
            )
        if content.count(_ENTRY) > MAX_ENTRIES:
            raise CheckpointError(f"it has more than {MAX_ENTRIES} entries")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except Exception as error:  # damaged bytes make the parser raise anything
            raise CheckpointError("it is damaged, or not a file of torch.save") from error
        self._entries = {entry.filename: entry for entry in self._zip.infolist()}
        for entry in self._zip.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise CheckpointError(
                    f"its entry {shown(entry.filename)} is compressed, which torch.save never does"
                )
        if sum(entry.file_size for entry in self._zip.infolist()) > len(content):
            raise CheckpointError("its entries overlap, or claim more bytes than it has")
        pickles = [name for name in self._entries if name.endswith(_PICKLE)]
        roots = [name.removesuffix(_PICKLE) for name in pickles]
        if len(roots) != 1 or "/" in roots[0]:
            raise CheckpointError("it is not a file of torch.save: it has no one data.pkl")
        self._root = roots[0]
        if f"{self._root}/byteorder" in self._entries and self._read("byteorder") != b"little":
            raise CheckpointError("its numbers are big-endian, which is not read")

    def load(self) -> Any:
        """Return what the file holds: records, tensors, plain values, and dicts of these.

        Raises:
            CheckpointError: damaged, or it names what is not allowed; the name is in the message.
        """
        if self._entries[f"{self._root}/data.pkl"].file_size > MAX_PICKLE_BYTES:
            raise CheckpointError(f"its pickle has more than {MAX_PICKLE_BYTES >> 20} MiB")
        return inert.load(self._read("data.pkl"), self.storage)

    def storage(self, key: object, numel: object) -> Storage:
        """Return the storage of a key, if the file holds as many numbers as it is said to.

        Raises:
            CheckpointError: there is no such entry, or it has another size.
        """
        if not (isinstance(key, str) and key.isascii() and key.isdigit()):
            raise CheckpointError(f"it names a storage {shown(key)}, which is no number")
        entry = self._entries.get(f"{self._root}/data/{key}")
        if entry is None:
            raise CheckpointError(f"its storage {shown(key)} is missing")
        if type(numel) is not int or entry.file_size != numel * _FLOAT_BYTES:
            raise CheckpointError(
                f"its storage {shown(key)} has {entry.file_size} bytes, and should have "
                f"{shown(numel)} float32 numbers"
            )
        return Storage(key, numel)

    def bytes_of(self, storage: Storage) -> bytes:
        """Return the numbers of a storage, float32, little-endian.

        Raises:
            CheckpointError: they are damaged.
        """
        return self._read(f"data/{storage.key}")

    def _read(self, name: str) -> bytes:
        try:
            return self._zip.read(f"{self._root}/{name}")
        except Exception as error:  # a wrong checksum, or whatever else damaged bytes lead to
            raise CheckpointError(f"its entry {shown(name)} is damaged") from error
