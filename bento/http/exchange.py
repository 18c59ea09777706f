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
        id: the header x-request-id if it is sane, else a new one.
        body: not read yet.
        noted: what the log says of it besides.
    """

    def __init__(self, scope: Scope, receive: Receive, memory: Memory) -> None:
        self.started = perf_counter()
        self.path: str = scope["path"]
        self.method: str = scope["method"]
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


class Sender:
    """ASGI's `send`, with the request's id on the answer.

    Attributes:
        status: of the answer; 0 before it was sent.
    """

    def __init__(self, send: Send, request_id: bytes) -> None:
        self.status = 0
        self._send = send
        self._id = (b"x-request-id", request_id)

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Send one message of an answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), self._id]
        await self._send(message)

    async def reply(self, reply: Reply) -> None:
        """Send a whole answer."""
        self.status = reply.status
        length = str(len(reply.body)).encode()
        headers = [(b"content-type", reply.kind), (b"content-length", length), self._id]
        start = {"type": "http.response.start", "status": reply.status}
        await self._send(start | {"headers": headers + reply.headers})
        await self._send({"type": "http.response.body", "body": reply.body})
