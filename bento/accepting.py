"""Spreads connections evenly over the workers, which all listen on one socket.

Left alone, whichever worker wakes first takes every connection that waits, and the others idle.
Here a worker takes one only while no other has fewer, or after a moment in which no other did.
"""

import asyncio
import socket
from contextlib import suppress
from typing import Any

from bento.metrics import Metrics

_MOMENT_S = 0.002
_MOMENTS = 5


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
        self._passed = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        (own,) = server.servers
        self._sockets = [
            socket.fromfd(each.fileno(), each.family, each.type) for each in own.sockets
        ]
        own.close()
        for each in self._sockets:
            each.setblocking(False)
            self._loop.add_reader(each.fileno(), self._ready, each)

    def close(self) -> None:
        """Stop taking connections."""
        for each in self._sockets:
            self._loop.remove_reader(each.fileno())
            each.close()
        self._sockets = []

    def _ready(self, listener: socket.socket) -> None:
        if self._server.should_exit:
            self.close()
            return
        connections = self._server.server_state.connections
        while True:
            mine = len(connections) + len(self._tasks)
            self._metrics.set("connections", mine)
            if mine > self._metrics.fewest_connections() and self._passed < _MOMENTS:
                self._pass(listener)
                return
            self._passed = 0
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # Out of file descriptors: what waits must wait until some are closed.
                self._pass(listener)
                return
            self._begin(connection)

    def _pass(self, listener: socket.socket) -> None:
        self._passed += 1
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(_MOMENT_S, self._again, listener)

    def _again(self, listener: socket.socket) -> None:
        if listener in self._sockets:
            self._loop.add_reader(listener.fileno(), self._ready, listener)

    def _begin(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        config, state = self._server.config, self._server.server_state
        task = self._loop.create_task(
            self._connected(
                connection,
                lambda: config.http_protocol_class(
                    config=config, server_state=state, app_state=self._server.lifespan.state
                ),
            )
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connected(self, connection: socket.socket, protocol: Any) -> None:
        ssl = self._server.config.ssl
        # A failed handshake is the client's affair.
        with suppress(OSError):
            await self._loop.connect_accepted_socket(protocol, connection, ssl=ssl)
