"""
Durations and sizes as people write them: ``15s``, ``1h30m``, ``64MiB``.
"""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

from collector.durations import UNITS_US, parse_duration

__all__ = ["format_duration", "parse_duration", "parse_size"]

_SIZE_BYTES = {
    "B": 1,
    "kB": 1_000,
    "MB": 1_000**2,
    "GB": 1_000**3,
    "TB": 1_000**4,
    "KiB": 1_024,
    "MiB": 1_024**2,
    "GiB": 1_024**3,
    "TiB": 1_024**4,
}
_SIZE = re.compile(rf"\s*(\d+(?:\.\d+)?)\s*({'|'.join(_SIZE_BYTES)})\s*")

SIZE_HINT = 'a size with its unit, such as "64KiB", "4MiB" or "1GB"'


def parse_size(value: object) -> int:
    """
    Return the number of bytes that *value* says.

    Raises:
        ValueError: Not a size.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"expected {SIZE_HINT}")
    return int(Decimal(found[1]) * _SIZE_BYTES[found[2]])


def format_duration(value: timedelta) -> str:
    """Return *value* as ``parse_duration`` reads it, in the largest units that fit: ``1h30m``."""
    us, text = value // timedelta(microseconds=1), ""
    for unit in ("d", "h", "m", "s", "ms"):
        count, us = divmod(us, UNITS_US[unit])
        text += f"{count}{unit}" if count else ""
    return text or "0s"
