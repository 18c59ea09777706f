"""Memory without a name on any disk, which a process shares with those that it starts."""

import os
import tempfile


def share(name: str, content: bytes = b"") -> int:
    """Make such memory, which holds `content`; return its file descriptor, which is inherited."""
    if hasattr(os, "memfd_create"):
        place = os.memfd_create(name)
    else:
        with tempfile.TemporaryFile() as file:
            place = os.dup(file.fileno())
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
