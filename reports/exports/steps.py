"""
Which tier answers for a window at a step: the coarsest that both allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from reports.arguments import REACH
from storage.errors import InputError, NotRolledUp
from storage.model import ROLLUPS, Table, Tier, Window

#: Longest window, for each tier, that is told in its steps where nobody asked for one: 360 minutes, 1,440 hours. That
#: many points are still a curve; days go on for ever.
TOLD_IN = ((Tier.M1, timedelta(hours=6)), (Tier.H1, timedelta(days=60)))

AUTO = "auto"

_LONGEST = REACH.end - REACH.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is read for a window at a step."""

    tier: Tier
    #: Width of a bucket of the answer, a whole multiple of the tier's; zero for raw rows.
    step: timedelta
    #: Whole buckets around the window that was asked for.
    window: Window


def choose(table: Table, window: Window, step: timedelta | None, kept: Mapping[Tier, datetime]) -> Choice:
    """
    Choose what to read of *table* for *window*.

    Args:
        step: Width of the buckets that are wanted. ``None`` is a minute up to 6 hours of window, an hour up to 60 days, a
            day beyond, and the next coarser of them where that is no longer kept.
        kept: From when on each tier is kept.

    Returns:
        The coarsest tier that divides *step*, and *window* in whole buckets of *step*.

    Raises:
        InputError: *step* is not a number of whole minutes, or longer than any window.
        NotRolledUp: *window* reaches below what is kept.
    """
    if step is not None:
        if step < Tier.M1.step or step % Tier.M1.step or step > _LONGEST:
            expected = f"{_LONGEST.days:,} days at the most" if step > _LONGEST else "whole minutes"
            raise InputError(
                f"step is {step.total_seconds():g} s, expected {expected}: leave it to auto, or ask for raw samples"
            )
        tier = max((each for each in ROLLUPS if not step % each.step), key=lambda each: each.step)
        return _held(table, tier, Choice(tier=tier, step=step, window=window.aligned(step)), kept)
    length = window.end - window.start
    tier = next((tier for tier, longest in TOLD_IN if length <= longest), Tier.D1)
    while (aligned := window.aligned(tier.step)).start < kept[tier] and tier.coarser:
        tier = tier.coarser
    return _held(table, tier, Choice(tier=tier, step=tier.step, window=aligned), kept)


def raw(table: Table, window: Window, kept: Mapping[Tier, datetime]) -> Choice:
    """
    Choose the raw rows of *window*.

    Raises:
        NotRolledUp: It reaches below what is kept.
    """
    return _held(table, Tier.RAW, Choice(tier=Tier.RAW, step=timedelta(0), window=window), kept)


def _held(table: Table, tier: Tier, choice: Choice, kept: Mapping[Tier, datetime]) -> Choice:
    if choice.window.start >= kept[tier]:
        return choice
    coarser = [each.value for each in ROLLUPS if each.step > tier.step and kept[each] <= choice.window.start]
    instead = f", or for a step of {' or '.join(coarser)}" if coarser else ""
    raise NotRolledUp(
        f"window starts at {choice.window.start.isoformat()}, {table.relation(tier)} is kept from "
        f"{kept[tier].isoformat()} on: ask for a later one{instead}"
    )
