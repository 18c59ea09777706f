"""The tags of a DICOM file, of which only those that are asked for are taken.

Nothing of a patient is kept, logged or put into a message; of `PatientID` a hash comes out.
"""

import hashlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Final

from toolkit.errors import ImageError
from toolkit.xray.dicom_pixels import PLAIN, SYNTAXES
from toolkit.xray.limits import MeteredFile, damage_error, decoding_error

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SNIFFED: Final = 132
"""How many bytes show what a file is."""
_PREAMBLE: Final = 132
_MAGIC: Final = b"DICM"
_KINDS: Final = rb"(?:AE|AS|AT|CS|DA|DS|DT|IS|LO|LT|PN|SH|SQ|ST|TM|UI|UL|US)"
# The magic word alone; a header; or, without one, a data set: explicit, implicit or in big endian.
_WITHOUT_PREAMBLE: Final = re.compile(
    rb"DICM\x02\0|(?:DICM)?(?:\x02\0[\0-\x18]\0%(kind)b|\0\x08.[\0-\x90]%(kind)b"
    rb"|\x08\0[\0-\x90].(?:%(kind)b|[\0-\x40]\0\0\0))" % {b"kind": _KINDS},
    re.DOTALL,
)
PIXELS: Final = 0x7FE00010
MODALITY_LUTS: Final = 0x00283000
VOI_LUTS: Final = 0x00283010
_END_OF_HEADER: Final = 0x00030000
_END_OF_PATIENT: Final = 0x00100022
_CHARACTER_SETS: Final = (b"\x08\0\5\0", b"\0\x08\0\5")  # the tag in either byte order
_IDENTITY: Final = ("PatientID", "IssuerOfPatientID")
LONGEST_VALUE: Final = 4_096
"""Longest value that is read, but for pixels and tables, bytes: a hundred windows."""
MAX_READS: Final = 20_000
"""Sequences cost much, and an X-ray has hundreds of tags."""
_SILENCE: Final = Lock()


class TagFile(MeteredFile):
    """A file of tags: of a list of character sets, each byte counts as a read.

    pydicom looks up each of them, in every item, and searches its imports for those unknown.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content, MAX_READS)
        self.names_follow = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes, as one read or more."""
        content = super().read(size)
        if self.names_follow:
            self.spend(len(content))
        if len(content) != 4:  # else it is a length, and the names are still to come
            self.names_follow = len(content) == 8 and content[:4] in _CHARACTER_SETS
        return content


def is_dicom(content: bytes) -> bool:
    """Whether a file, by its first `SNIFFED` bytes, is DICOM, with its preamble or without."""
    return content[128:132] == _MAGIC or _WITHOUT_PREAMBLE.match(content) is not None


def patient_key(content: bytes) -> str | None:
    """Return a hash of a DICOM file's `PatientID`, 32 hexadecimal digits; None where it has none.

    Who issued the number counts as well. Nothing but the hash leaves this function.
    """
    try:
        with silence():
            file, syntax = open_tags(content)
            wanted = PLAIN.get(syntax, (False, "<"))
            tags = read_tags(file, *wanted, _IDENTITY, _END_OF_PATIENT)
            number, issuer = (str(tags.get(keyword) or "").strip() for keyword in _IDENTITY)
    except Exception as error:  # the reader of its pixels says what is wrong with it
        if isinstance(raised := decoding_error(error), ImageError):
            return None
        raise raised from None
    identity = f"{issuer}/{number}".encode("utf-8", "backslashreplace")
    return hashlib.sha256(identity).hexdigest()[:32] if number else None


def open_tags(content: bytes) -> tuple[TagFile, str]:
    """Return a file at its first tag behind the header, and its transfer syntax."""
    file = TagFile(content)
    start = 0 if _WITHOUT_PREAMBLE.match(content) else _PREAMBLE
    file.seek(len(_MAGIC) if content.startswith(_MAGIC) else start)
    syntax = _syntax(read_tags(file, False, "<", ("TransferSyntaxUID",), _END_OF_HEADER))
    return file, syntax or _guessed_syntax(content[file.tell() : file.tell() + 6])


def _guessed_syntax(start: bytes) -> str:
    """Return the plain transfer syntax that a data set begins in: some lack the header."""
    explicit, big = start[4:6].isalpha() and start[4:6].isupper(), start[:1] == b"\0"
    wanted = (not explicit, "<>"[big])
    return next((uid for uid, kind in PLAIN.items() if kind == wanted), "")


def _syntax(tags: "Dataset") -> str | None:
    """Return the UID of the transfer syntax, if it is one that is read; None without one."""
    from pydicom.uid import UID

    syntax = tags.get("TransferSyntaxUID")
    if not syntax:
        return None
    if syntax not in SYNTAXES:
        name = UID(syntax).name  # of one that is not registered, what the file says
        known = name if name != syntax else "an unknown transfer syntax"
        message = f"stored as {known}, which is not read; save it as Explicit VR Little Endian"
        raise ImageError("dicom_compressed", message)
    return str(syntax)


def read_tags(
    file: TagFile, implicit: bool, order: str, wanted: tuple[str | int, ...], end: int
) -> "Dataset":
    """Read those of the wanted tags that come before the tag `end`; leave the file there.

    Values are not converted yet, and those that would be are of bounded length.

    Args:
        implicit: value representations are not written.
        order: "<" or ">", of bytes.
    """
    from pydicom.filereader import read_dataset
    from pydicom.tag import Tag

    tags = read_dataset(
        file,
        implicit,
        order == "<",
        stop_when=lambda tag, _kind, _length: tag >= end,
        specific_tags=[Tag(tag) for tag in wanted],
    )
    for element in tags.elements():
        if element.tag not in (MODALITY_LUTS, VOI_LUTS, PIXELS):
            stored_value(tags, element.tag, LONGEST_VALUE)
    return tags


def stored_value(tags: "Dataset", tag: str | int, longest: int) -> bytes:
    """Return a value as it is stored; nothing for a tag that is absent."""
    element = tags.get_item(tag, keep_deferred=True)  # without: an empty one is parsed
    if element is None or not element.value:
        return b""
    content = bytes(element.value)
    if len(content) != getattr(element, "length", -1) or len(content) > longest:
        raise damage_error()
    return content


@contextmanager
def silence() -> Iterator[None]:
    """Let nobody hear meanwhile what pydicom says of a file, in its log and in warnings.

    Both are the process's own, so one thread at a time is in here.
    """
    logger = logging.getLogger("pydicom")
    with _SILENCE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before
