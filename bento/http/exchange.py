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

AT_ONCE = 16 * 1024
"""The largest answer, bytes, that is not waited for until the client has taken it."""
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
        self.body = Body(receive, self.headers, memory)
        self.noted: dict[str, Any] = {}

    async def answer(self, send: Send, reply: Reply) -> None:
        """Send an answer, with the request's id on it."""
        headers = reply.all_headers(self.id)
        start = {"type": "http.response.start", "status": reply.status, "headers": headers}
        await send(start)
        if len(reply.body) > AT_ONCE:
            # What is sent next waits until this was taken; till then it counts as memory.
            await send({"type": "http.response.body", "body": reply.body, "more_body": True})
            reply = Reply(reply.status, b"")
        await send({"type": "http.response.body", "body": reply.body})
