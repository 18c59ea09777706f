"""The files in a form (multipart/form-data, RFC 7578), found in time linear in its bytes.

Nothing but the boundary is taken from the request's own content-type: a charset that a client
names would choose the decoder, and some decoders take quadratic time.
"""

import re

from toolkit.errors import ImageError
from toolkit.xray.pictures import JPEG, PNG

FIELD = "xray"
MAX_FILES = 64
"""Most files in one batch, and most other fields in a form."""
_BOUNDARY_BYTES = 256
_HEADERS_BYTES = 16 * 1024
_PARAMETER = re.compile(rb';\s*([\w*-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]*))', re.DOTALL)


def files(body: bytes, kind: bytes, most: int) -> list[bytes | ImageError]:
    """Return the files of the field `xray`, and for each text there why it is refused.

    Args:
        body: the whole form.
        kind: the header content-type, which holds the boundary.
        most: entries of the field that are read; one more is refused.

    Raises:
        ImageError: it is no whole form (400), or has no entry of that field.
    """
    found: list[bytes | ImageError] = []
    boundary = _parameters(kind).get(b"boundary", b"")
    if not 0 < len(boundary) <= _BOUNDARY_BYTES:
        raise _unreadable(f"its content-type has no boundary of 1 to {_BOUNDARY_BYTES} bytes")
    delimiter = b"\r\n--" + boundary
    # The first one needs no line before it.
    place = -2 if body.startswith(delimiter[2:]) else body.find(delimiter)
    if place < 0 and place != -2:
        raise _unreadable("its boundary stands nowhere in it")
    for _ in range(most + MAX_FILES + 1):
        place += len(delimiter)
        if body.startswith(b"--", place):
            break
        start, place = place, body.find(delimiter, place)
        if place < 0:
            raise _unreadable("it is cut off: no closing boundary follows its last part")
        found += _entry(body, start, place)
        if len(found) > most:
            raise _unreadable(f"more than {most} files in {FIELD!r}")
    else:
        raise _unreadable(f"more than {MAX_FILES} other fields")
    if not found:
        raise ImageError("no_xray", f"no field {FIELD!r} in the form: put the file there")
    return found


def _entry(body: bytes, start: int, end: int) -> list[bytes | ImageError]:
    """Return what the part between two boundaries holds for the field `xray`, if it is of it."""
    head_end = body.find(b"\r\n\r\n", start, min(end, start + _HEADERS_BYTES))
    if head_end < 0:
        raise _unreadable(f"the headers of a part do not end, or are over {_HEADERS_BYTES} bytes")
    padding, *lines = body[start:head_end].split(b"\r\n")
    if padding.strip(b" \t"):
        raise _unreadable("something stands behind a boundary in its line")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise _unreadable("a header of a part has no colon")
        headers[name.strip().lower()] = value.strip()
    parameters = _parameters(headers.get(b"content-disposition", b""))
    if b"name" not in parameters:
        raise _unreadable("a part has no name: give it in Content-Disposition")
    if parameters[b"name"] != FIELD.encode():
        return []
    content = body[head_end + 4 : end]
    kind = headers.get(b"content-type", b"text/plain").lower()
    if (
        b"filename" in parameters
        or b"filename*" in parameters
        or not kind.startswith(b"text/")
        or content.startswith((PNG, JPEG))
        or content[128:132] == b"DICM"
    ):
        return [content]
    return [ImageError("not_a_file", f"{FIELD!r} holds text: send the file itself")]


def _parameters(value: bytes) -> dict[bytes, bytes]:
    """Return the parameters of a header, by their names in small letters."""
    return {
        each[1].lower(): each[3] if each[2] is None else re.sub(rb"\\(.)", rb"\1", each[2])
        for each in _PARAMETER.finditer(value)
    }


def _unreadable(reason: str) -> ImageError:
    return ImageError("bad_multipart", f"the multipart body cannot be read: {reason}", 400)
