"""
Durations and sizes as people write them.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetpulse.quantities import format_duration, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("250ms", timedelta(milliseconds=250)),
        ("15s", timedelta(seconds=15)),
        ("1.5s", timedelta(seconds=1.5)),
        ("5m", timedelta(minutes=5)),
        ("1h30m", timedelta(minutes=90)),
        ("1h 30m", timedelta(minutes=90)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(days=14)),
        (" 0s ", timedelta(0)),
    ],
)
def test_duration(text: str, duration: timedelta) -> None:
    """A number with its unit, or several, is a duration."""
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "value",
    ["", " ", "15", "s", "-5s", "5 minutes", "5x", "1h-30m", "5m5m", "1e3s", "forever", 15, 1.5, None, True, []],
)
def test_duration_refused(value: object) -> None:
    """A number without a unit, a sign, an unknown or a repeated unit is an error that shows how it is written."""
    with pytest.raises(ValueError, match='expected a duration with its unit, such as "250ms"'):
        parse_duration(value)


def test_duration_too_long() -> None:
    """A century is for ever, and a slip of the finger must not overflow."""
    with pytest.raises(ValueError, match="at most 100 years"):
        parse_duration("99999999999999999999d")


@given(us=st.integers(min_value=0, max_value=10**15).map(lambda ms: ms // 1000 * 1000))
def test_duration_there_and_back(us: int) -> None:
    """What is formatted is parsed as the same duration, to the millisecond."""
    duration = timedelta(microseconds=us)

    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("value", "size"),
    [("64B", 64), ("1kB", 1000), ("64KiB", 65_536), ("4 MiB", 4 * 1024**2), ("1.5GiB", 1536 * 1024**2), (12, 12)],
)
def test_size(value: object, size: int) -> None:
    """Decimal and binary units are told apart; a whole number is bytes."""
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["", "64", "64 mb", "64K", "-1B", "1MiB2", -1, 1.5, True, None])
def test_size_refused(value: object) -> None:
    """Anything else is an error that shows how it is written."""
    with pytest.raises(ValueError, match="expected a size with its unit"):
        parse_size(value)
