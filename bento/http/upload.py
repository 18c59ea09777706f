"""Takes a file out of a request: its media type, and limits of size, time and memory; no disk.

A slow body takes no more memory than what has come of it. A text where a file is expected is
refused unread: if it is an address, nothing is fetched from it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from bento.http import form
from bento.http.form import FIELD, MAX_FILES
from toolkit.errors import ImageError, RequestError
from toolkit.xray.reading import MAX_BYTES

RAW_TYPES = (b"image/jpeg", b"image/png", b"application/dicom", b"application/octet-stream")
"""Media types of a body that is the file itself."""
# What else they are called.
_ALIASES = (
    b"image/jpg",
    b"image/pjpeg",
    b"image/x-png",
    b"image/dicom",
    b"image/dcm",
    b"binary/octet-stream",
)
MAX_BATCH_BYTES = 64_000_000
"""Largest batch, bytes."""
# Room for the boundaries and headers of a multipart body around the largest file.
_OVERHEAD = 64 * 1024
_MULTIPART = b"multipart/form-data"
_PROGRESS_S = 10.0
_WHOLE_S = 30.0
_HELD = 256_000_000

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Memory:
    """How many bytes a worker holds for bodies, their copies, and answers until they are taken."""

    def __init__(self, most: int = _HELD) -> None:
        self.held = 0
        self._most = most

    def take(self, count: int) -> None:
        """Count some more bytes.

        Raises:
            RequestError: 503, there is no room for them.
        """
        if self.held + count > self._most:
            raise RequestError(
                503, "overloaded", "too much at once: try again in a second", retry_after="1"
            )
        self.held += count


class Body:
    """The body of one request.

    Args:
        receive: ASGI's.
        headers: of the request; names in lower case.
        memory: of the worker; `release` gives back what this body took.
    """

    def __init__(self, receive: Receive, headers: Mapping[bytes, bytes], memory: Memory) -> None:
        self.kind = headers.get(b"content-type", b"")
        self.media = self.kind.partition(b";")[0].strip().lower()
        self.limit = MAX_BYTES
        self.size = 0
        self._counted = 0
        self._coding = headers.get(b"content-encoding", b"").strip().lower()
        declared = headers.get(b"content-length", b"")
        self._declared = int(declared) if declared.isdigit() else 0
        self._receive = receive
        self._memory = memory
        # Pieces and the whole; of a form, the files in it as well.
        self._copies = 3 if self.media == _MULTIPART else 2
        self._until = asyncio.get_running_loop().time() + _WHOLE_S
        self._ended = False

    async def xray(self) -> bytes:
        """Return the file: the whole body, or the multipart field `xray`.

        Raises:
            ImageError: another media type (415), too many bytes (413), or not one file.
            RequestError: compressed (415), too slow (408), cut off (400), or no room for it (503).
        """
        if self.media in RAW_TYPES + _ALIASES:
            return await self.read(MAX_BYTES)
        if self.media != _MULTIPART:
            raise ImageError(
                "unsupported_media_type",
                f"send the file as image/png, image/jpeg, application/dicom or "
                f"application/octet-stream, or in the field {FIELD!r} of multipart/form-data",
                415,
            )
        files = await self._files(MAX_BYTES, 2)
        if len(files) > 1:
            raise ImageError("several_xrays", f"several files in {FIELD!r}: send one")
        if isinstance(files[0], ImageError):
            raise files[0]
        return files[0]

    async def xrays(self) -> list[bytes | ImageError]:
        """Return the files of the multipart field `xray`, and for each text why it is refused.

        Raises:
            ImageError: not multipart (415), too many bytes (413), or no file or too many.
            RequestError: as `xray` does.
        """
        if self.media != _MULTIPART:
            raise ImageError(
                "unsupported_media_type", f"send multipart/form-data, files in {FIELD!r}", 415
            )
        files = await self._files(MAX_BATCH_BYTES, MAX_FILES + 1)
        if len(files) > MAX_FILES:
            raise ImageError("too_many_files", f"more than {MAX_FILES} files: send fewer at once")
        return files

    async def read(self, limit: int) -> bytes:
        """Return the whole body, at most `limit` bytes; raises what `xray` does."""
        self.limit = limit
        if self._coding not in (b"", b"identity"):
            # A few bytes can unpack to very many, and X-rays hardly become smaller.
            raise RequestError(415, "compressed", "the body is compressed: send it as it is")
        if self._declared > limit:
            raise self._too_large()
        chunks: list[bytes] = []
        while not self._ended:
            chunks.append((await self.receive()).get("body", b""))
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def receive(self) -> MutableMapping[str, Any]:
        """Return the next message, as ASGI's `receive` does; raises what `xray` does."""
        if self._ended:
            return await self._receive()
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(min(now + _PROGRESS_S, self._until)):
                message = await self._receive()
        except TimeoutError:
            raise RequestError(
                408, "too_slow", "the body came too slowly: send it again", connection="close"
            ) from None
        if message["type"] == "http.disconnect":
            raise RequestError(400, "cut_off", "the connection ended before the body did")
        size = len(message.get("body", b""))
        self.size += size
        try:
            self._memory.take(size * self._copies)
        except RequestError:
            # At once, so that the memory is free for requests that are not refused.
            self.release()
            raise
        self._counted += size * self._copies
        if self.size > self.limit:
            raise self._too_large()
        self._ended = not message.get("more_body", False)
        return message

    def give_way(self, size: int) -> None:
        """Count the answer, of `size` bytes, in this body's place.

        Raises:
            RequestError: 503, there is no room for it.
        """
        self.release()
        self._memory.take(size)
        self._counted = size

    def release(self) -> None:
        """Give back the memory that the body, or the answer in its place, was counted for."""
        self._memory.held -= self._counted
        self._counted = 0

    def _too_large(self) -> ImageError:
        return ImageError("too_large", f"the body is over {self.limit} bytes: send less", 413)

    async def _files(self, limit: int, most: int) -> list[bytes | ImageError]:
        """Return at least one entry of the field `xray`."""
        return form.files(await self.read(limit + _OVERHEAD), self.kind, most)
