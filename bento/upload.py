"""Takes the X-ray's bytes out of a request, within a limit, without touching the disk."""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from toolkit.errors import ImageError
from toolkit.images import MAX_BYTES

if TYPE_CHECKING:
    from starlette.requests import Request

FIELD = "xray"
# Room for the boundaries and headers of a multipart body around the largest file.
_OVERHEAD = 64 * 1024


async def uploaded_xray(request: "Request") -> bytes:
    """Return the file of the multipart field `xray`.

    Raises:
        ImageError: no such field, a text where a file belongs, several files, not multipart
            (415), or too many bytes (413).
    """
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ImageError(
            "not_multipart", f"send the file as multipart/form-data, field {FIELD!r}", 415
        )
    body = await _limited_body(request)
    parser = MultiPartParser(request.headers, _once(body), max_files=2, max_fields=16)
    # Larger parts than this would go to a temporary file.
    parser.spool_max_size = len(body) + 1
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise ImageError(
            "bad_multipart", f"the multipart body cannot be read: {error}", 400
        ) from error
    files = form.getlist(FIELD)
    if not files:
        raise ImageError("no_xray", f"no field {FIELD!r} in the form: put the file there")
    if len(files) > 1:
        raise ImageError("several_xrays", f"several files in {FIELD!r}: send one")
    if not isinstance(files[0], UploadFile):
        raise ImageError("not_a_file", f"{FIELD!r} holds text: send the file itself")
    content: bytes = await files[0].read()
    return content


async def _limited_body(request: "Request") -> bytes:
    from starlette.requests import ClientDisconnect

    too_large = ImageError("too_large", f"the file is over {MAX_BYTES} bytes", 413)
    limit = MAX_BYTES + _OVERHEAD
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise too_large
    except ClientDisconnect as error:
        # Nobody is left to answer, and nothing went wrong here that a log should show.
        raise ImageError("cut_off", "the connection ended before the body did", 400) from error
    return bytes(body)


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body
