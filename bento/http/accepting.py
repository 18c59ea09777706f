"""Spreads connections evenly over the workers, which all listen on one socket.

Without this, the worker that wakes first takes every connection that waits, and the others idle.
Here a worker takes a connection only while no other worker has fewer. A worker with fewer that is
busy is given time to take it. If it lets a quarter of a second pass, it is not waited for again
until it shows that it lives. Workers that are not ready take connections only while none is ready:
they refuse at once, and so would nearly always have the fewest.
"""

import asyncio
import socket
from contextlib import suppress
from functools import partial
from select import select
from ssl import SSLError
from time import monotonic
from typing import Any

from bento.worker.counters import Metrics

_MOMENT_S = 0.002
_PATIENCE_S = 0.25


class Acceptor:
    """Takes connections in the place of a running uvicorn.Server's own listener.

    Args:
        server: the uvicorn.Server.
        metrics: through which the workers know of each other's connections.
    """

    def __init__(self, server: Any, metrics: Metrics) -> None:
        self._server = server
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._waiting_since: float | None = None
        self._gave_up = 0.0
        # Protocols of connections that were taken and are not made yet, and what makes them.
        self._coming: dict[Any, asyncio.Task[None]] = {}
        (own,) = server.servers
        self._sockets = [
            socket.fromfd(each.fileno(), each.family, each.type) for each in own.sockets
        ]
        own.close()
        self.count()
        for each in self._sockets:
            each.setblocking(False)
            self._loop.add_reader(each.fileno(), self._ready, each)

    def close(self) -> None:
        """Stop taking connections."""
        for each in self._sockets:
            self._loop.remove_reader(each.fileno())
            each.close()
        self._sockets = []

    def count(self) -> int:
        """Tell the other workers how many connections this one has, and return it."""
        made = self._server.server_state.connections
        mine = len(made) + sum(each not in made for each in self._coming)
        self._metrics.set("connections", mine)
        if self._sockets:
            self._metrics.accepting()
        return mine

    def _ready(self, listener: socket.socket) -> None:
        if self._server.should_exit:
            self.close()
            return
        while not self._is_anothers(self.count()):
            self._waiting_since = None
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # Out of file descriptors: what waits must wait until some are closed.
                break
            self._begin(connection)
        self._pass(listener)

    def _is_anothers(self, mine: int) -> bool:
        """Whether to leave the next connection to a worker that has fewer than `mine`."""
        if not self._metrics.takes():
            return True
        if mine <= self._metrics.fewest_connections(self._gave_up):
            return False
        now = monotonic()
        self._waiting_since = self._waiting_since or now
        if now - self._waiting_since < _PATIENCE_S:
            return True
        self._gave_up = now
        return False

    def _pass(self, listener: socket.socket) -> None:
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(_MOMENT_S, self._again, listener)

    def _again(self, listener: socket.socket) -> None:
        if listener not in self._sockets:
            return
        if not select([listener], [], [], 0)[0]:
            # Another took it.
            self._waiting_since = None
        self._loop.add_reader(listener.fileno(), self._ready, listener)

    def _begin(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        config, state = self._server.config, self._server.server_state
        protocol = config.http_protocol_class(
            config=config, server_state=state, app_state=self._server.lifespan.state
        )
        self._coming[protocol] = task = self._loop.create_task(
            self._connected(connection, protocol)
        )
        task.add_done_callback(lambda _: self._coming.pop(protocol))
        task.add_done_callback(partial(tell_failure, "a connection could not be taken"))

    async def _connected(self, connection: socket.socket, protocol: Any) -> None:
        ssl = self._server.config.ssl
        # A failed handshake is the client's affair.
        with suppress(SSLError, ConnectionError, TimeoutError):
            await self._loop.connect_accepted_socket(lambda: protocol, connection, ssl=ssl)


def tell_failure(message: str, task: "asyncio.Task[None]") -> None:
    """Tell the event loop's handler what a task failed of, if it did: nobody awaits it."""
    if not task.cancelled() and (error := task.exception()):
        task.get_loop().call_exception_handler({"message": message, "exception": error})
