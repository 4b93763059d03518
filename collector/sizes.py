"""
Sizes as reasons say them, and as people write them into settings.
"""

from __future__ import annotations

_UNITS = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))


def in_words(size_bytes: int) -> str:
    """Return a number of bytes, exactly: ``4 MiB``, ``100000 bytes``."""
    for unit_bytes, unit in _UNITS:
        if size_bytes and size_bytes % unit_bytes == 0:
            return f"{size_bytes // unit_bytes} {unit}"
    return f"{size_bytes} bytes"
