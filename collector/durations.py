"""
Durations as people write them, ``15s`` and ``1h30m``, and as reasons say them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from types import MappingProxyType

#: Units, in microseconds, shortest first.
UNITS_US: Mapping[str, int] = MappingProxyType(
    {
        "ms": 1_000,
        "s": 1_000_000,
        "m": 60_000_000,
        "h": 3_600_000_000,
        "d": 86_400_000_000,
        "w": 604_800_000_000,
    }
)
_PART = re.compile(rf"\s*(\d+(?:\.\d+)?)\s*({'|'.join(UNITS_US)})\s*")

DURATION_HINT = 'a duration with its unit, such as "250ms", "15s", "5m", "1h30m" or "7d"'

#: Longer ones are a slip: a century is for ever.
_MAX_DURATION = timedelta(days=36_500)

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3_600, 86_400


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
    for part in _PART.finditer(value):
        if part.start() != end or part[2] in seen:
            break
        us += Decimal(part[1]) * UNITS_US[part[2]]
        seen.add(part[2])
        end = part.end()
    if end != len(value):
        raise ValueError(f"expected {DURATION_HINT}")
    if us > _MAX_DURATION / timedelta(microseconds=1):
        raise ValueError('expected at most 100 years; "forever" where a retention has no end')
    return timedelta(microseconds=int(us))


def in_words(seconds: float) -> str:
    """Return a duration as a reason says it, as exactly as anybody needs to know: ``2.5s``, ``90s``, ``2m 05s``, ``12m``."""
    if seconds < 10:
        return f"{int(seconds * 10) / 10:g}s"
    whole = int(seconds)
    if whole < 2 * _MINUTE_S:
        return f"{whole}s"
    if whole < 10 * _MINUTE_S:
        return _two(whole, _MINUTE_S, "m", 1, "s")
    if whole < 2 * _HOUR_S:
        return f"{whole // _MINUTE_S}m"
    if whole < 2 * _DAY_S:
        return _two(whole, _HOUR_S, "h", _MINUTE_S, "m")
    return _two(whole, _DAY_S, "d", _HOUR_S, "h")


def _two(seconds: int, large_s: int, large: str, small_s: int, small: str) -> str:
    many, rest = divmod(seconds, large_s)
    few = rest // small_s
    return f"{many}{large} {few:02}{small}" if few else f"{many}{large}"
