"""
Which buckets answer for a window: whole minutes, hours and days, above what is kept.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from reports.windows import Kept, choose_days, choose_step, split_days, split_hours, zone_name
from storage.errors import InputError, NotRolledUp
from storage.model import EPOCH, Tier, Window
from tests.batches import NOON

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ALL = Kept(EPOCH, EPOCH, EPOCH)
MIDNIGHT = NOON.replace(hour=0)


def test_days_are_those_of_the_zone_and_of_the_coarsest_tier_that_has_them() -> None:
    """UTC and London in winter from days, Berlin from hours, Kathmandu from minutes; Lord Howe is a whole hour in summer."""
    window = Window(NOON, NOON + HOUR)
    whole = {
        zone: choose_days(window, ALL, ZoneInfo(zone))
        for zone in ("UTC", "Europe/London", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe")
    }

    assert whole == {
        "UTC": (Window(MIDNIGHT, MIDNIGHT + DAY), Tier.D1),
        "Europe/London": (Window(MIDNIGHT, MIDNIGHT + DAY), Tier.D1),
        "Europe/Berlin": (Window(MIDNIGHT - HOUR, MIDNIGHT + 23 * HOUR), Tier.H1),
        "Asia/Kathmandu": (Window(MIDNIGHT - 345 * MINUTE, MIDNIGHT + DAY - 345 * MINUTE), Tier.M1),
        "Australia/Lord_Howe": (Window(MIDNIGHT - 11 * HOUR, MIDNIGHT + 13 * HOUR), Tier.H1),
    }
    july = Window(NOON + 120 * DAY, NOON + 120 * DAY + HOUR)
    assert choose_days(july, ALL, ZoneInfo("Europe/London"))[1] is Tier.H1
    assert choose_days(july, ALL, ZoneInfo("Australia/Lord_Howe"))[1] is Tier.M1


def test_days_on_which_clocks_change_are_whole() -> None:
    """Berlin's 29 March has 23 hours, its 25 October 25; a window that ends at midnight ends there."""
    berlin = ZoneInfo("Europe/Berlin")
    spring = Window(datetime(2026, 3, 29, 12, tzinfo=UTC), datetime(2026, 3, 29, 13, tzinfo=UTC))
    autumn = Window(datetime(2026, 10, 24, 22, tzinfo=UTC), datetime(2026, 10, 25, 23, tzinfo=UTC))

    found, _ = choose_days(spring, ALL, berlin)
    assert found == Window(datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 3, 29, 22, tzinfo=UTC))
    assert choose_days(autumn, ALL, berlin)[0] == autumn


def test_days_that_are_kept_in_part_are_left_out() -> None:
    """Hours are kept from noon on: of Berlin's days, those from the next midnight on are whole, and of UTC's."""
    window = Window(MIDNIGHT - 5 * DAY, MIDNIGHT + 3 * DAY)
    kept = Kept(NOON, NOON, NOON)

    assert choose_days(window, kept, ZoneInfo("Europe/Berlin"))[0] == Window(
        MIDNIGHT + 23 * HOUR, MIDNIGHT + 71 * HOUR + DAY
    )
    assert choose_days(window, kept, UTC)[0] == Window(MIDNIGHT + DAY, MIDNIGHT + 3 * DAY)
    with pytest.raises(NotRolledUp, match="days are kept from 2026-03-10T12:00:00"):
        choose_days(Window(MIDNIGHT - DAY, MIDNIGHT), kept, UTC)


def test_zones_without_a_name_are_refused() -> None:
    """A database knows zones by name; an offset is none."""
    assert zone_name(UTC) == "UTC"
    assert zone_name(ZoneInfo("Asia/Kathmandu")) == "Asia/Kathmandu"
    with pytest.raises(InputError, match=r"time zone is UTC\+02:00, expected one of the IANA"):
        zone_name(timezone(2 * HOUR))


def test_steps_are_minutes_up_to_a_length_as_far_as_they_are_kept() -> None:
    """Six hours by minutes, a second more by hours; less where nobody wants minutes, or has them."""
    start = NOON + timedelta(seconds=30)
    short, long = Window(start, start + 6 * HOUR), Window(start, start + 6 * HOUR + timedelta(seconds=1))

    assert choose_step(short, ALL) == (Window(NOON, NOON + 6 * HOUR + MINUTE), False)
    assert choose_step(long, ALL) == (Window(NOON, NOON + 7 * HOUR), True)
    assert choose_step(short, ALL, timedelta(0))[1] is True
    assert choose_step(long, ALL, 2 * DAY)[1] is False
    assert choose_step(short, Kept(NOON + HOUR, NOON + HOUR, EPOCH)) == (Window(NOON + HOUR, NOON + 7 * HOUR), True)


def test_windows_end_where_hours_are_kept_no_more() -> None:
    """Cut off below; all of it below is refused, ending there too; a window without length above is one."""
    kept = Kept(NOON + HOUR, NOON, EPOCH)

    assert split_hours(Window(NOON - DAY, NOON + 90 * MINUTE), kept) == (
        Window(NOON, NOON + 90 * MINUTE),
        Window(NOON, NOON + HOUR),
    )
    for end in (NOON - HOUR, NOON):
        with pytest.raises(NotRolledUp, match="hours are kept from 2026-03-10T12:00:00"):
            split_hours(Window(NOON - DAY, end), kept)
        with pytest.raises(NotRolledUp, match="hours are kept from 2026-03-10T12:00:00"):
            choose_step(Window(NOON - DAY, end), kept)
    assert split_hours(Window(NOON + HOUR, NOON + HOUR), kept)[0].empty
    assert split_days(Window(NOON, NOON + DAY)) == Window(NOON + DAY, NOON + DAY)
