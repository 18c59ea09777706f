"""Memory that processes share, without a name on any disk."""

import os
import tempfile


def make(name: str) -> int:
    """Return a file descriptor of memory of no size yet; what `name` says is for whoever looks."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
