"""Limits of uvicorn's connections that it has no settings for.

A head must be whole within 10 seconds and 64 KiB; what comes after an early answer is thrown away
for 5 seconds; an ending worker waits for at most 10 seconds. What is no HTTP gets a problem
document as everything else does.
"""

import asyncio
import secrets
import signal
from http import HTTPStatus
from typing import Any

from bento.accepting import Acceptor
from bento.metrics import Metrics
from bento.reply import refusal
from toolkit.errors import RequestError

_HEAD_S = 10.0
_HEAD_BYTES = 64 * 1024
_DISCARD_S = 5.0
_IDLE_S = 65
_DRAIN_S = 10


def running_server() -> Any | None:
    """Return the uvicorn.Server that runs this process; None where there is none."""
    return getattr(signal.getsignal(signal.SIGTERM), "__self__", None)


def protect(server: Any, application: Any, metrics: Metrics) -> "asyncio.Task[None]":
    """Put the limits on every connection to come; return the task that watches them.

    Their requests go straight to `application`, past the middleware that believes forwarded
    addresses: nothing here asks for one. Once the server listens, the task spreads its
    connections over the workers.
    """
    config = server.config
    config.timeout_keep_alive = _IDLE_S
    config.timeout_graceful_shutdown = _DRAIN_S
    config.loaded_app = application
    config.http_protocol_class = _protocol(config.http_protocol_class)
    return asyncio.get_running_loop().create_task(_watch(server, metrics))


async def _watch(server: Any, metrics: Metrics) -> None:
    loop = asyncio.get_running_loop()
    while not server.started:
        await asyncio.sleep(0.01)
    acceptor = Acceptor(server, metrics)
    try:
        while True:
            metrics.alive()
            acceptor.count()
            for connection in list(server.server_state.connections):
                connection.check(loop.time())
            await asyncio.sleep(1)
    finally:
        acceptor.close()


def _protocol(base: type[Any]) -> type[Any]:
    """Return uvicorn's protocol on httptools with the limits; another protocol as it is."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    if base is not HttpToolsProtocol:
        raise TypeError(f"the connections are of {base.__name__}: install httptools")

    class Connection(HttpToolsProtocol):
        head_since: float | None = None
        head_bytes = 0
        discarding_since: float | None = None
        in_message = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.head_since = self.loop.time()

        def on_message_begin(self) -> None:
            self.head_since = self.loop.time()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self.head_since = None
            self.head_bytes = 0
            self.in_message = True
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self.in_message = False
            self.discarding_since = None
            super().on_message_complete()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.head_since is not None:
                self.head_bytes += len(data)
                if self.head_bytes > _HEAD_BYTES:
                    message = f"the head is over {_HEAD_BYTES} bytes: send less"
                    self.refuse(RequestError(431, "head_too_large", message))

        def send_400_response(self, msg: str) -> None:
            del msg
            self.refuse(RequestError(400, "bad_request", "this is no HTTP request"))

        def refuse(self, error: RequestError) -> None:
            """Answer outside of any request, and end the connection."""
            if self.transport.is_closing():
                return
            reply = refusal(error)
            lines = [
                b"HTTP/1.1 %d %s" % (error.status, HTTPStatus(error.status).phrase.encode()),
                b"content-type: " + reply.kind,
                b"content-length: %d" % len(reply.body),
                b"x-request-id: " + secrets.token_hex(16).encode(),
                b"connection: close",
            ]
            self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + reply.body)
            self.transport.close()

        def check(self, now: float) -> None:
            """End the connection where it has been too slow."""
            if self.head_since is not None and now - self.head_since > _HEAD_S:
                self.head_since = None
                self.refuse(RequestError(408, "too_slow", "the head came too slowly"))
            elif self.in_message and self.cycle is not None and self.cycle.response_complete:
                self.discarding_since = self.discarding_since or now
                if now - self.discarding_since > _DISCARD_S:
                    self.transport.abort()

    return Connection
