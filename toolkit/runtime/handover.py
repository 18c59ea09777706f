"""X-rays handed to the one process that owns the card, and their outputs handed back.

A process that reads X-rays connects to the owner's socket. It is told what the owner runs, and
sends a file descriptor of memory that both map: slots, each with room for an X-ray and for its
outputs. From then on only numbers of slots go over the socket: one way those that are filled, with
the outputs that are wanted, and back those that are done. Whichever of the two ends, the other sees
the end of the socket; the memory has no name, and goes with them.
"""

import json
import mmap
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from time import monotonic, sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit import memory
from toolkit.errors import ModelRefusedError, ProviderError
from toolkit.runtime.engine import Engine, Outputs, Shapes, Then, Xrays, joined

SLOTS = 128
"""X-rays that a process may have with the owner at a time."""
ASKED = struct.Struct("<HH")
"""A slot that is filled, and a bit for each output that is wanted."""
DONE = np.dtype("<u2")
"""A slot that is done."""
_AGAIN_S = 0.05
_ALIGNED = 64


class Slots:
    """Memory of `SLOTS` X-rays and their outputs.

    Args:
        place: its file descriptor.
        shapes: of what lies in it.

    Attributes:
        arrays: uint8 `xray` (SLOTS, S, S), and each output, (SLOTS, ...).
    """

    def __init__(self, place: int, shapes: Shapes) -> None:
        starts, size = {}, 0
        for name, (dtype, shape) in shapes.items():
            starts[name] = size
            size += -(-SLOTS * np.dtype(dtype).itemsize * prod(shape) // _ALIGNED) * _ALIGNED
        if os.fstat(place).st_size < size:
            os.ftruncate(place, size)
        mapped = mmap.mmap(place, size)
        self.arrays: dict[str, NDArray[Any]] = {
            name: np.frombuffer(mapped, dtype, SLOTS * prod(shape), starts[name]).reshape(
                SLOTS, *shape
            )
            for name, (dtype, shape) in shapes.items()
        }


@dataclass(eq=False)
class _Pending:
    """X-rays that the owner has: their slots, how many are not done, and what is wanted of them."""

    slots: list[int]
    names: Sequence[str]
    then: Then
    missing: int
    since: float


class Handover(Engine):
    """What the owner runs, for another process.

    Whoever opens it has `receive` called whenever there is something to read.

    Args:
        address: path of the owner's socket.
        digest: sha256 of the file that the owner is to run.
        patience_s: how long to wait for the owner to be there.
        listen: is given the handover before anything is asked; see `receive`.

    Raises:
        ProviderError: no owner, one that cannot open its model, or that ends at once.
        ModelRefusedError: it runs another file.
    """

    def __init__(
        self,
        address: str,
        digest: str,
        patience_s: float,
        listen: "Callable[[Handover], None]",
    ) -> None:
        self._socket, welcome = _greeted(address, patience_s)
        if welcome["sha256"] != digest:
            self.close()
            raise ModelRefusedError(
                "the process with the card runs another file of this model: start the service anew"
            )
        super().__init__(welcome["provider"], welcome["shapes"], welcome["words"])
        place = memory.make("toolkit-xrays")
        self._arrays = Slots(place, self.shapes).arrays
        try:
            socket.send_fds(self._socket, [b"s"], [place])
        except OSError:
            self.close()
            raise handover_lost() from None
        finally:
            os.close(place)
        self._bits = {name: 1 << place for place, name in enumerate(self.outputs)}
        self._free = list(range(SLOTS))
        self._changed = threading.Condition()
        self._at: dict[int, _Pending] = {}
        self._rest = b""
        self.has_ended = False
        listen(self)

    is_elsewhere = True

    @property
    def waiting_since(self) -> float | None:  # type: ignore[override]
        """When the oldest of what the owner has was handed over."""
        try:
            # They are in the order in which they were handed over.
            oldest = next(iter(self._at.values()), None)
        except RuntimeError:
            # Another thread has just added or removed one, so nothing is stuck.
            return None
        return oldest.since if oldest else None

    def fileno(self) -> int:
        """Return the file descriptor that there is something to read of."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket, once nobody listens to it."""
        self._socket.close()

    def leave(self) -> None:
        """End the connection; the owner forgets what it was given, and `receive` sees the end."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def run(self, names: Sequence[str], xrays: Xrays) -> Outputs:
        """Return some outputs of X-rays, once the owner has run them."""
        parts: list[Outputs] = []
        for start in range(0, max(len(xrays), 1), SLOTS // 2):
            done = threading.Event()
            found: list[Outputs | Exception] = []

            def then(
                result: Outputs | Exception,
                done: threading.Event = done,
                found: list[Outputs | Exception] = found,
            ) -> None:
                found.append(result)
                done.set()

            self.submit(names, xrays[start : start + SLOTS // 2], then)
            done.wait()
            if isinstance(found[0], Exception):
                raise found[0]
            parts.append(found[0])
        return joined(names, parts)

    def submit(self, names: Sequence[str], xrays: Xrays, then: Then) -> None:
        """Hand over X-rays, at most `SLOTS`; `then` is called by whoever calls `receive`."""
        if not len(xrays):
            then({name: self._arrays[name][:0] for name in names})
            return
        slots = self._taken(len(xrays))
        for slot, xray in zip(slots, xrays, strict=True):
            self._arrays["xray"][slot] = xray
        wanted = sum(self._bits[name] for name in names)
        pending = _Pending(slots, names, then, len(slots), monotonic())
        with self._changed:
            if self.has_ended:
                raise handover_lost()
            self._at.update(dict.fromkeys(slots, pending))
            try:
                self._socket.sendall(b"".join(ASKED.pack(slot, wanted) for slot in slots))
            except OSError:
                # The thread that receives sees that the owner has ended, and answers for these.
                return

    def receive(self) -> bool:
        """Wait for what the owner says, and pass on what is done; False at its end."""
        try:
            said = self._rest + self._socket.recv(1 << 16)
        except OSError:
            said = b""
        if len(said) == len(self._rest):
            self._end()
            return False
        end = len(said) // DONE.itemsize * DONE.itemsize
        self._rest = said[end:]
        for slot in np.frombuffer(said[:end], DONE).tolist():
            pending = self._at[slot]
            pending.missing -= 1
            if not pending.missing:
                found = {name: self._arrays[name][pending.slots] for name in pending.names}
                self._release(pending)
                pending.then(found)
        return True

    def _taken(self, count: int) -> list[int]:
        """Return so many slots, once they are free."""
        with self._changed:
            self._changed.wait_for(lambda: self.has_ended or len(self._free) >= count)
            if self.has_ended:
                raise handover_lost()
            return [self._free.pop() for _ in range(count)]

    def _release(self, pending: _Pending) -> None:
        with self._changed:
            for slot in pending.slots:
                del self._at[slot]
            self._free += pending.slots
            self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            self.has_ended = True
            lost = list(dict.fromkeys(self._at.values()))
            self._at.clear()
            self._changed.notify_all()
        for pending in lost:
            pending.then(handover_lost())


def _greeted(address: str, patience_s: float) -> tuple[socket.socket, dict[str, Any]]:
    """Return a connection to the owner, and what it says of itself."""
    end = monotonic() + patience_s
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(address)
            with connection.makefile("rb", 0) as file:
                welcome = json.loads(file.readline())
            break
        except (OSError, ValueError):
            connection.close()
            if monotonic() > end:
                raise ProviderError("the process with the card has not started yet") from None
            sleep(_AGAIN_S)
    if "reason" in welcome:
        connection.close()
        raise ProviderError(welcome["reason"])
    return connection, welcome


def handover_lost() -> ProviderError:
    """Return what is said where the owner has ended."""
    return ProviderError("the process with the card has ended; another takes its place")
