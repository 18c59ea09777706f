"""Limits of uvicorn's connections that it has no settings for.

A head must be whole within 10 seconds and 64 KiB, and so must what is between parts of a body and
after it; what comes after an early answer is thrown away for 5 seconds; an ending worker waits for
at most 10 seconds. An answer of which nothing is taken for 10 seconds is given up with its
connection. A client that ended its side gets what it asked for; work for one that is gone is
cancelled. A wish for another protocol, such as WebSocket, is passed over. What is no HTTP
gets a problem document as everything else does.
"""

import asyncio
import secrets
import select
import signal
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

from bento.http.accepting import Acceptor, tell_failure
from bento.http.exchange import AT_ONCE
from bento.http.reply import refusal
from bento.worker.counters import Metrics
from toolkit.errors import RequestError

_HEAD_S = 10.0
_HEAD_BYTES = 64 * 1024
_DISCARD_S = 5.0
_IDLE_S = 65
_UNREAD_S = 10.0
_PROBES, _PROBE_S = 2, 0.5
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_DRAIN_S = 10


def running_server() -> Any | None:
    """Return the uvicorn.Server that runs this process; None where there is none."""
    return getattr(signal.getsignal(signal.SIGTERM), "__self__", None)


def protect(
    server: Any, application: Any, metrics: Metrics, beat: Callable[[], None]
) -> "asyncio.Task[None]":
    """Put the limits on every connection to come; return the task that watches them.

    Their requests go straight to `application`, past the middleware that believes forwarded
    addresses: nothing here asks for one. Once the server listens, the task spreads its
    connections over the workers, and calls `beat` every second.
    """
    config = server.config
    config.timeout_keep_alive = _IDLE_S
    config.timeout_graceful_shutdown = _DRAIN_S
    config.loaded_app = application
    config.ws_protocol_class = None
    config.http_protocol_class = _protocol(config.http_protocol_class)
    task = asyncio.get_running_loop().create_task(_watch(server, metrics, beat))
    # The worker gives no sign of life then, and is replaced.
    task.add_done_callback(partial(tell_failure, "connections are no longer watched"))
    return task


async def _watch(server: Any, metrics: Metrics, beat: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    while not server.started:
        # Opening the model may take longer than a worker may be silent before it is replaced.
        beat()
        await asyncio.sleep(0.01)
    acceptor = Acceptor(server, metrics)
    try:
        while True:
            beat()
            acceptor.count()
            for connection in list(server.server_state.connections):
                _check(connection, loop)
            await asyncio.sleep(1)
    finally:
        acceptor.close()


def _check(connection: Any, loop: asyncio.AbstractEventLoop) -> None:
    try:
        connection.check(loop.time())
    except Exception as error:  # of this connection alone: the others are still to be watched
        message = "a connection could not be checked"
        loop.call_exception_handler({"message": message, "exception": error})


def _protocol(base: type[Any]) -> type[Any]:
    """Return uvicorn's protocol on httptools with the limits; another protocol as it is."""
    from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    if base is not HttpToolsProtocol:
        raise TypeError(f"the connections are of {base.__name__}: install httptools")

    class Connection(HttpToolsProtocol):
        head_since: float | None = None
        discarding_since: float | None = None
        in_message = False
        # Bytes that came since the last piece of a body, or the last whole head or request.
        between = 0
        # Bytes of answers that the client has not taken, and since when it has taken none.
        unread = 0
        unread_since: float | None = None
        # The client has ended its side.
        is_half = False
        is_lost = False
        task: "asyncio.Task[Any] | None" = None

        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            self.application = self.app
            self.app = self.run

        async def run(self, *arguments: Any) -> None:
            """Answer one request, in a task that ends early where the client is gone."""
            self.task = task = asyncio.current_task()
            try:
                await self.application(*arguments)
            except asyncio.CancelledError:
                if not self.is_lost:
                    raise
            finally:
                if self.task is task:
                    self.task = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(AT_ONCE)
            self.head_since = self.loop.time()

        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            self.is_lost = True
            # Reading a body tells of its end by itself.
            if self.task and (self.pipeline or not self.in_message):
                self.task.cancel()

        def eof_received(self) -> bool:  # type: ignore[override]
            """Leave the connection open where whole requests are to be answered."""
            self.is_half = True
            self.head_since = None
            self.loop.call_later(_PROBE_S, self.probe, _PROBES)
            return not self.in_message and self.is_answering()

        def is_answering(self) -> bool:
            """Whether the last whole request is not answered yet."""
            return self.cycle is not None and not self.cycle.response_complete

        def probe(self, times: int) -> None:
            """Write something harmless, which fails where the client has ended both sides."""
            if not times or self.transport.is_closing() or not self.is_answering():
                return
            version = self.cycle.scope["http_version"]
            if version == "1.1" and not self.pipeline and not self.cycle.response_started:
                self.transport.write(_CONTINUE)
            self.loop.call_later(_PROBE_S, self.probe, times - 1)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.is_half and not self.is_answering():
                self.transport.close()

        def on_message_begin(self) -> None:
            self.head_since = self.loop.time()
            super().on_message_begin()

        def on_header(self, name: bytes, value: bytes) -> None:
            # Nothing here reads the trailers of a chunked body.
            if not self.in_message:
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            if self.parser.should_upgrade():
                if self.parser.get_method() == b"CONNECT":
                    raise ValueError("this is no proxy")
                return
            self.head_since = None
            self.between = 0
            self.in_message = True
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self.between = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            if self.parser.should_upgrade():
                return
            self.between = 0
            self.in_message = False
            self.discarding_since = None
            super().on_message_complete()
            if not self.pipeline:
                # A large body's last piece leaves it paused, and the client's end unseen.
                self.flow.resume_reading()

        def data_received(self, data: bytes) -> None:
            self._unset_keepalive_if_required()
            self.between += len(data)
            try:
                self.parse(memoryview(data))
            except HttpParserError:
                self.refuse(RequestError(400, "bad_request", "this is no HTTP request"))
                return
            if self.between > _HEAD_BYTES:
                message = f"a head, or what is around a body, is over {_HEAD_BYTES} bytes"
                self.refuse(RequestError(431, "head_too_large", f"{message}: send less"))

        def parse(self, data: memoryview) -> None:
            """Parse what came; a head that asks for another protocol as if it did not."""
            while data:
                try:
                    self.parser.feed_data(data)
                    return
                except HttpParserUpgrade as found:
                    head, data = self.plain_head(), data[found.args[0] :]
                # The old one would take what follows for another protocol.
                self.parser = HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(head)

        def plain_head(self) -> bytes:
            """Return the head that was parsed last, without its header `upgrade`."""
            version = self.parser.get_http_version().encode()
            lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
            lines += [b"%s: %s" % each for each in self.headers if each[0] != b"upgrade"]
            return b"\r\n".join(lines) + b"\r\n\r\n"

        def refuse(self, error: RequestError) -> None:
            """Answer outside of any request, and end the connection."""
            if self.transport.is_closing():
                return
            if self.may_answer():
                self.transport.write(_whole_answer(error))
            self.transport.close()

        def may_answer(self) -> bool:
            """Whether an answer can be sent: none is half sent, and the request has none yet."""
            last = self.cycle
            if self.pipeline or last is None:
                return not self.pipeline
            return not last.response_started or (last.response_complete and not self.in_message)

        def check(self, now: float) -> None:
            """End the connection where it has been too slow, or broke while nothing is read."""
            before, self.unread = self.unread, self.transport.get_write_buffer_size()
            if not self.unread or self.unread < before:
                self.unread_since = None
            else:
                self.unread_since = self.unread_since or now
                if now - self.unread_since > _UNREAD_S:
                    self.transport.abort()
                    return
            if self.flow.read_paused and self.is_broken():
                self.transport.abort()
                return
            if self.head_since is not None and now - self.head_since > _HEAD_S:
                self.head_since = None
                self.refuse(RequestError(408, "too_slow", "the head came too slowly"))
            elif self.in_message and self.cycle is not None and self.cycle.response_complete:
                self.discarding_since = self.discarding_since or now
                if now - self.discarding_since > _DISCARD_S:
                    self.transport.abort()

        def is_broken(self) -> bool:
            """Whether the client has reset the connection: only reading would tell."""
            looking = select.poll()
            looking.register(self.transport.get_extra_info("socket").fileno(), 0)
            return bool(looking.poll(0))

    return Connection


def _whole_answer(error: RequestError) -> bytes:
    reply = refusal(error)
    lines = [
        b"HTTP/1.1 %d %s" % (error.status, HTTPStatus(error.status).phrase.encode()),
        *(b"%s: %s" % header for header in reply.all_headers(secrets.token_hex(16).encode())),
        b"connection: close",
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + reply.body
