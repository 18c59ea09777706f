"""The process that owns the card: it runs the X-rays that others hand over, in turn.

`toolkit/runtime/handover.py` is the other side, and says what passes between them.
"""

import json
import os
import selectors
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, perf_counter
from typing import Any

import numpy as np

from toolkit.runtime.engine import Engine, Shapes
from toolkit.runtime.handover import ASKED, DONE, Slots

_BEAT_S = 1.0


class Owner:
    """Serves one engine to whoever connects.

    Args:
        address: path of the socket to make.
        engine: what runs X-rays, `sizes[-1]` at most at a time.
        digest: sha256 of the file that it runs.
        ran: called with the number of X-rays and the seconds of each batch.
        beat: called every second or more often.
    """

    def __init__(
        self,
        address: str,
        engine: Engine,
        digest: str,
        ran: Callable[[int, float], None] = lambda *_: None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._most = engine.sizes[-1]
        self._ran, self._beat = ran, beat
        self._welcome = {
            "provider": engine.provider,
            "words": engine.words,
            "sha256": digest,
            "shapes": engine.shapes,
        }
        self._selector = selectors.DefaultSelector()
        self._clients: deque[_Client] = deque()
        self._ends: float | None = None
        self._listener = listening(address)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def drain(self, patience_s: float) -> None:
        """Have `serve` return when nobody is connected any more, or some seconds have passed."""
        self._ends = monotonic() + patience_s

    def serve(self) -> None:
        """Run what is handed over, until it is told to end.

        Raises:
            ProviderError: the engine failed.
        """
        try:
            while not self._over():
                self._hear()
                self._beat()
                if batch := self._next():
                    self._run(batch)
        finally:
            self._listener.close()
            for client in self._clients:
                client.connection.close()

    def _hear(self) -> None:
        waiting = any(client.waiting for client in self._clients)
        for key, _ in self._selector.select(0 if waiting else _BEAT_S):
            if key.fileobj is self._listener:
                self._accept()
            else:
                self._read(key.data)

    def _over(self) -> bool:
        return self._ends is not None and (not self._clients or monotonic() > self._ends)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        with suppress(OSError):
            connection.sendall(json.dumps(self._welcome).encode() + b"\n")
            client = _Client(connection)
            self._clients.append(client)
            self._selector.register(connection, selectors.EVENT_READ, client)

    def _read(self, client: "_Client") -> None:
        try:
            client.read(self._engine.shapes)
        except (OSError, EOFError, ValueError, IndexError):
            self._selector.unregister(client.connection)
            self._clients.remove(client)
            client.connection.close()

    def _next(self) -> "list[tuple[_Client, int, int]]":
        """Return the clients, slots and wishes of the next batch: one of each client in turn."""
        batch: list[tuple[_Client, int, int]] = []
        waiting = deque(client for client in self._clients if client.waiting)
        while waiting and len(batch) < self._most:
            client = waiting.popleft()
            batch.append((client, *client.waiting.popleft()))
            if client.waiting:
                waiting.append(client)
        # The client that was first in this batch is last in the next.
        self._clients.rotate(-1)
        return batch

    def _run(self, batch: "list[tuple[_Client, int, int]]") -> None:
        begun = perf_counter()
        wanted = 0
        for _, _, wish in batch:
            wanted |= wish
        names = [name for bit, name in enumerate(self._engine.outputs) if wanted >> bit & 1]
        found = self._engine.run(names, [client.arrays["xray"][slot] for client, slot, _ in batch])
        self._ran(len(batch), perf_counter() - begun)
        done: dict[_Client, list[int]] = {}
        for place, (client, slot, _) in enumerate(batch):
            for name in names:
                client.arrays[name][slot] = found[name][place]
            done.setdefault(client, []).append(slot)
        for client, slots in done.items():
            # A client that is gone is noticed when it is read from.
            with suppress(OSError):
                client.connection.sendall(np.array(slots, DONE).tobytes())


class _Client:
    """A process that hands over X-rays; `waiting` holds its slots and what is wanted of each."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.arrays: dict[str, Any] = {}
        self.waiting: deque[tuple[int, int]] = deque()
        self._rest = b""

    def read(self, shapes: Shapes) -> None:
        """Read what came: the memory first, then slots."""
        if not self.arrays:
            said, places, _, _ = socket.recv_fds(self.connection, 1, 1)
            if not said:
                raise EOFError
            self.arrays = Slots(places[0], shapes).arrays
            os.close(places[0])
            return
        said = self.connection.recv(1 << 16)
        if not said:
            raise EOFError
        said = self._rest + said
        end = len(said) // ASKED.size * ASKED.size
        self._rest = said[end:]
        self.waiting.extend(ASKED.iter_unpack(said[:end]))


def listening(address: str) -> socket.socket:
    """Return a socket that listens at a path, in the place of one that a dead owner left."""
    with suppress(FileNotFoundError):
        os.unlink(address)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(1024)
    return listener


def refuse(address: str, reason: str, seconds: float) -> None:
    """Tell whoever connects, for some seconds, why nothing can be run."""
    end = monotonic() + seconds
    with listening(address) as listener:
        while (left := end - monotonic()) > 0:
            listener.settimeout(left)
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(json.dumps({"reason": reason}).encode() + b"\n")
