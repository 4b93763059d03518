"""
Windows, buckets and moments.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InputError
from storage.model import (
    DOWN,
    ROLLUPS,
    UNOBSERVED,
    UP,
    Outcome,
    Table,
    Tier,
    Window,
    aware,
    ceil,
    floor,
    from_us,
    to_us,
)

MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2199, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # hypothesis adds the zone


@given(MOMENTS)
def test_microseconds_are_exact(moment: datetime) -> None:
    """A moment survives the way to microseconds and back."""
    assert from_us(to_us(moment)) == moment


@given(MOMENTS, st.sampled_from(ROLLUPS))
def test_a_bucket_holds_its_moment(moment: datetime, tier: Tier) -> None:
    """The bucket of a moment starts at or before it, ends after it, and is counted from the epoch."""
    start = floor(moment, tier.step)

    assert start <= moment < start + tier.step
    assert to_us(start) % int(tier.step.total_seconds() * 1e6) == 0
    assert ceil(moment, tier.step) in (start, start + tier.step)


def test_window_needs_a_time_zone() -> None:
    """A naive end is refused with the remedy."""
    naive = datetime(2026, 1, 1)  # noqa: DTZ001  # what the test is about
    with pytest.raises(ValueError, match="has no time zone, expected aware UTC"):
        Window(naive, datetime(2026, 1, 2, tzinfo=UTC))


def test_window_does_not_end_before_it_starts() -> None:
    """Ends in the wrong order are refused with both."""
    start = datetime(2026, 1, 2, tzinfo=UTC)
    with pytest.raises(ValueError, match="window ends before it starts: 2026-01-02T00:00:00"):
        Window(start, start - timedelta(seconds=1))


def test_window_buckets_cover_other_zones() -> None:
    """Buckets are UTC whatever zone the ends are given in."""
    zone = timezone(timedelta(hours=5, minutes=30))
    window = Window(datetime(2026, 1, 1, 5, 45, tzinfo=zone), datetime(2026, 1, 1, 7, 0, tzinfo=zone))

    assert [each.isoformat() for each in window.buckets(timedelta(hours=1))] == [
        "2026-01-01T05:30:00+05:30",
        "2026-01-01T06:30:00+05:30",
    ]
    assert next(iter(window.buckets(timedelta(hours=1)))) == datetime(2026, 1, 1, tzinfo=UTC)


def test_aware_is_utc() -> None:
    """A moment of any zone is answered in UTC; what is none, has no zone or lies beyond the calendar is named."""
    east, west = timezone(timedelta(hours=5)), timezone(timedelta(hours=-5))
    now = datetime(2026, 1, 1, tzinfo=UTC)

    assert aware(now) is now
    assert aware(now.astimezone(east)).isoformat() == "2026-01-01T00:00:00+00:00"
    for moment, message in (
        (now.replace(tzinfo=None), "due_at 2026-01-01T00:00:00 has no time zone, expected aware UTC: add tzinfo=UTC"),
        (datetime.max.replace(tzinfo=west), "due_at 9999-.* is out of range, expected the years 1 to 9999 in UTC"),
        (datetime.min.replace(tzinfo=east), "due_at 0001-.* is out of range, expected the years 1 to 9999 in UTC"),
        (0, "due_at is 0, expected an aware datetime in UTC"),
        (now.date(), r"due_at is datetime.date\(2026, 1, 1\), expected an aware datetime in UTC"),
    ):
        with pytest.raises(InputError, match=message):
            aware(moment, "due_at")  # type: ignore[arg-type]  # on purpose


def test_every_outcome_is_in_one_group() -> None:
    """Up, down and unobserved part the outcomes between them."""
    assert frozenset(Outcome) == UP | DOWN | UNOBSERVED
    assert len(UP) + len(DOWN) + len(UNOBSERVED) == len(Outcome)


def test_relations_have_their_public_names() -> None:
    """Names of tables and views are part of the interface."""
    assert [Table.HEALTH.relation(tier) for tier in Tier] == ["health_checks", "health_1m", "health_1h", "health_1d"]
    assert Table.SYSTEM.relation(Tier.D1) == "system_metrics_1d"
