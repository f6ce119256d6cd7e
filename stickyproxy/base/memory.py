"""Memory that processes share by inheriting its descriptor."""

from __future__ import annotations

import os
import tempfile


def anonymous(name: str, size: int) -> int:
    """The descriptor of a file that has no name and takes no space before it is written to.
    ``name``: shown where the kernel lists what is mapped. Raises OSError."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create(name)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor
