"""
Which tier answers for which window at which step.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from reports.exports.names import label_text
from reports.exports.steps import choose, raw
from storage.errors import InputError, NotRolledUp
from storage.model import EPOCH, Table, Tier, Window

NOON = datetime(2026, 3, 10, 12, 0, 30, tzinfo=UTC)
FOR_EVER = dict.fromkeys(Tier, EPOCH)
#: As retention leaves it: raw rows of a week, minutes of a month, hours of a year.
KEPT = {
    Tier.RAW: NOON.replace(hour=0, minute=0, second=0) - timedelta(days=7),
    Tier.M1: NOON.replace(hour=0, minute=0, second=0) - timedelta(days=30),
    Tier.H1: NOON.replace(hour=0, minute=0, second=0) - timedelta(days=400),
    Tier.D1: EPOCH,
}
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def back(length: timedelta, ago: timedelta = timedelta(0)) -> Window:
    """Return the window of this length that ended so long before noon."""
    return Window(NOON - ago - length, NOON - ago)


@pytest.mark.parametrize(
    ("window", "step", "tier", "width"),
    [
        # Nobody asked for a step.
        (back(MINUTE), None, Tier.M1, MINUTE),
        (back(6 * HOUR), None, Tier.M1, MINUTE),
        (back(6 * HOUR + MINUTE), None, Tier.H1, HOUR),
        (back(29 * DAY), None, Tier.H1, HOUR),
        (back(60 * DAY), None, Tier.H1, HOUR),
        (back(61 * DAY), None, Tier.D1, DAY),
        # Minutes, or hours, are gone there.
        (back(HOUR, ago=31 * DAY), None, Tier.H1, HOUR),
        (back(HOUR, ago=401 * DAY), None, Tier.D1, DAY),
        # The coarsest that divides it.
        (back(HOUR), MINUTE, Tier.M1, MINUTE),
        (back(HOUR), 15 * MINUTE, Tier.M1, 15 * MINUTE),
        (back(HOUR), 90 * MINUTE, Tier.M1, 90 * MINUTE),
        (back(DAY), HOUR, Tier.H1, HOUR),
        (back(DAY), 6 * HOUR, Tier.H1, 6 * HOUR),
        (back(DAY), DAY, Tier.D1, DAY),
        (back(90 * DAY), 7 * DAY, Tier.D1, 7 * DAY),
    ],
)
def test_tier_is_the_coarsest_that_window_and_step_allow(
    window: Window, step: timedelta | None, tier: Tier, width: timedelta
) -> None:
    """Window and step say which tier, and the window is widened to whole buckets."""
    found = choose(Table.HEALTH, window, step, KEPT)

    assert (found.tier, found.step) == (tier, width)
    assert found.window == window.aligned(width)


@pytest.mark.parametrize(
    ("window", "step", "said"),
    [
        (back(HOUR, ago=31 * DAY), 15 * MINUTE, "health_1m is kept from 2026-02-08T00:00:00+00:00 on: .* 1h or 1d"),
        (back(HOUR, ago=401 * DAY), HOUR, "health_1h is kept from .* or for a step of 1d"),
    ],
)
def test_steps_below_the_horizon_are_refused(window: Window, step: timedelta, said: str) -> None:
    """What is no longer kept at a step is named, with the steps at which it is."""
    with pytest.raises(NotRolledUp, match=said.replace("+", r"\+")):
        choose(Table.HEALTH, window, step, KEPT)


def test_window_before_everything_has_no_remedy_but_a_later_one() -> None:
    """Where no tier goes back so far, none is recommended."""
    nothing = dict.fromkeys(Tier, NOON)
    with pytest.raises(NotRolledUp, match=r"health_1d is kept from .* on: ask for a later one$"):
        choose(Table.HEALTH, back(HOUR), None, nothing)
    with pytest.raises(NotRolledUp, match=r"system_metrics is kept from .* on: ask for a later one$"):
        raw(Table.SYSTEM, back(HOUR), nothing)


@pytest.mark.parametrize("step", [timedelta(0), -HOUR, timedelta(seconds=30), timedelta(seconds=90)])
def test_steps_are_whole_minutes(step: timedelta) -> None:
    """No tier divides anything else."""
    with pytest.raises(InputError, match=re.escape(f"step is {step.total_seconds():g} s, expected whole minutes")):
        choose(Table.AGENT, back(HOUR), step, FOR_EVER)


def test_labels_are_told_as_in_the_text_exposition() -> None:
    """In order of their names, quotes, backslashes and line ends escaped."""
    assert label_text({}) == ""
    assert label_text({"b": 'x"y', "a": "c\\d\ne"}) == r'{a="c\\d\ne",b="x\"y"}'
