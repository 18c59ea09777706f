"""The two ends of one request: what came, and what takes the answer."""

import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from itertools import count
from time import perf_counter
from typing import Any

from bento.http.reply import Reply
from bento.http.upload import Body, Memory, Receive

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
# A request's own id: unlike any other's, and cheap.
_PREFIX = secrets.token_hex(8).encode()
_COUNT = count()


class Call:
    """One request.

    Attributes:
        path: of its URL.
        parameters: the parts of the path that its route leaves open, by name.
        id: the header x-request-id if it is sane, else a new one.
        body: not read yet.
        noted: what the log says of it besides.
    """

    def __init__(self, scope: Scope, receive: Receive, memory: Memory) -> None:
        self.started = perf_counter()
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.parameters: dict[str, str] = {}
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        sane = _SANE_ID.fullmatch(given) is not None
        self.id = given if sane else b"%s%016x" % (_PREFIX, next(_COUNT))
        self.body = Body(
            receive,
            self.headers.get(b"content-type", b""),
            self.headers.get(b"content-length", b""),
            memory,
        )
        self.noted: dict[str, Any] = {}

    async def answer(self, send: Send, reply: Reply) -> None:
        """Send an answer, with the request's id on it."""
        headers = [(b"content-type", reply.kind), (b"x-request-id", self.id), *reply.headers]
        if reply.status != 304:
            headers.append((b"content-length", str(len(reply.body)).encode()))
        start = {"type": "http.response.start", "status": reply.status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": reply.body})
