"""
Durations and sizes as people write them: ``15s``, ``1h30m``, ``64MiB``.
"""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

#: Units of durations, in microseconds.
_DURATION_US = {
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
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
_PART = r"\s*(\d+(?:\.\d+)?)\s*({units})\s*"
_DURATION_PART = re.compile(_PART.format(units="ms|s|m|h|d|w"))
_SIZE = re.compile(_PART.format(units="|".join(_SIZE_BYTES)))

DURATION_HINT = 'a duration with its unit, such as "250ms", "15s", "5m", "1h30m" or "7d"'
SIZE_HINT = 'a size with its unit, such as "64KiB", "4MiB" or "1GB"'

#: Longer ones are a slip: a century is for ever.
_MAX_DURATION = timedelta(days=36_500)


def parse_duration(value: object) -> timedelta:
    """
    Return the duration that *value* says; a number without a unit is refused, because it could mean anything.

    Raises:
        ValueError: Not a duration.
    """
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected {DURATION_HINT}")
    us, end, seen = Decimal(0), 0, set[str]()
    for part in _DURATION_PART.finditer(value):
        if part.start() != end or part[2] in seen:
            break
        us += Decimal(part[1]) * _DURATION_US[part[2]]
        seen.add(part[2])
        end = part.end()
    if end != len(value):
        raise ValueError(f"expected {DURATION_HINT}")
    if us > _MAX_DURATION / timedelta(microseconds=1):
        raise ValueError('expected at most 100 years; "forever" where a retention has no end')
    return timedelta(microseconds=int(us))


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
        count, us = divmod(us, _DURATION_US[unit])
        text += f"{count}{unit}" if count else ""
    return text or "0s"
