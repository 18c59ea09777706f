"""Memory that processes share, and that no disk has a file of."""

import os
import tempfile


def make(name: str) -> int:
    """Return a file descriptor of such memory, still empty; the name only shows in listings."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def share(name: str, content: bytes = b"") -> int:
    """Make such memory, which holds `content`; return its file descriptor, which is inherited."""
    place = make(name)
    os.set_inheritable(place, True)
    with open(place, "wb", closefd=False) as memory:
        memory.write(content)
    return place


def content_of(place: int) -> bytes:
    """Return all that the memory at a file descriptor holds.

    Raises:
        OSError: there is nothing at that descriptor.
    """
    return os.pread(place, os.fstat(place).st_size, 0)
