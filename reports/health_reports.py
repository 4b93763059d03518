"""
Reports about the health of agents and hosts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import date, timedelta
from typing import cast

from reports.definition import Ask, Definition, Option, Span, columns
from storage.model import Table

_EPOCH = date(1970, 1, 1)
#: A line that leads further than a century says nothing of the day on which it arrives.
_AHEAD_DAYS = 36_500


def _dated(ask: Ask) -> Sequence[tuple[object, ...]]:
    """Return the series of hosts by name, their labels in words, each with the day on which its line arrives."""
    rows: list[tuple[str, str, str, *tuple[object, ...]]] = []
    for host, metric, labels, unit, days, first, last, slope, r2, days_left, last_day in cast(
        Sequence[tuple[str, str, str, str, int, float, float, float | None, float | None, float | None, int]],
        ask("capacity_trend").rows,
    ):
        named = ", ".join(f"{name}={value}" for name, value in sorted(json.loads(labels).items()))
        left, full_on = None, None
        if days_left is not None and days_left <= _AHEAD_DAYS:
            left = max(days_left, 0.0)
            # The mean of a day stands for its middle.
            full_on = _EPOCH + timedelta(days=math.floor(last_day + left + 0.5))
        rows.append((host, metric, named, unit, days, first, last, slope, r2, left, full_on))
    # Engines write labels in ways of their own, and would put them in another order.
    return sorted(rows, key=lambda row: row[:3])


HEALTH = (
    Definition(
        name="availability",
        description="slots of each agent in the window: expected, up, down, unobserved, paused",
        span=Span.MINUTES,
        filters=("agent", "type"),
        columns=columns(
            *("agent", "~type", "expected:slots", "up:slots", "down:slots", "unobserved:slots"),
            *("~skipped:slots", "~lost:slots", "~paused:slots", "availability:ratio", "coverage:ratio"),
        ),
    ),
    Definition(
        name="capacity_trend",
        description="how full hosts become: a line through daily means, and the day on which it reaches the limit",
        span=Span.DAYS,
        table=Table.SYSTEM,
        usual=timedelta(days=30),
        filters=("host", "metric"),
        options=(
            Option(
                name="full_at",
                description="value at which there is nothing left, in the unit of the metric",
                default=100,
                low=-1e290,
                high=1e290,
            ),
        ),
        columns=columns(
            *("host", "metric", "labels", "~unit", "~days:n", "~first_mean:1", "last_mean:1"),
            *("slope_per_day:1", "~r2:1", "~days_left:1", "full_on:date"),
        ),
        finish=_dated,
    ),
    Definition(
        name="error_budget",
        description="how much downtime the target of each agent allows in the window, and how much of it is used",
        span=Span.MINUTES,
        usual=timedelta(days=30),
        recent="burn_for_s",
        filters=("agent", "type"),
        options=(
            Option(
                name="target",
                description="availability that is to be reached, a ratio",
                default=0.999,
                low=0,
                high=0.999999,
            ),
            Option(
                name="burn_for_s",
                description="the end of the window that the burn rate is told of",
                default=timedelta(hours=1).total_seconds(),
                low=60,
                high=timedelta(days=366).total_seconds(),
            ),
        ),
        columns=columns(
            *("agent", "~type", "~up:slots", "~down:slots", "availability:ratio", "~target:ratio"),
            *("~allowed_down:1", "used:ratio", "remaining:1", "burn_rate:1", "exhausted?"),
        ),
    ),
    Definition(
        name="fleet_health",
        description="how each agent is now, what is down first",
        span=Span.NOW,
        filters=("agent", "type"),
        columns=columns(
            *("agent", "~type", "~state", "status", "stale?", "since:utc", "reason"),
            *("~last_due:utc", "~last_outcome", "last_latency_ms:ms", "~interval_s:s"),
        ),
    ),
    Definition(
        name="incidents",
        description="times in which an agent was down, the latest first",
        span=Span.EXACT,
        filters=("agent", "type"),
        columns=columns(
            *("agent", "~type", "started_at:utc", "~ended_at:utc", "duration_s:s"),
            *("first_status", "~last_status", "reason", "open?"),
        ),
    ),
    Definition(
        name="latency",
        description="how long the polls of each agent took: percentiles, mean and maximum, the slowest agent first",
        span=Span.MINUTES,
        filters=("agent", "type"),
        columns=columns(
            *("agent", "~type", "n:n", "p50_ms:ms", "~p90_ms:ms", "p95_ms:ms", "p99_ms:ms", "max_ms:ms", "~mean_ms:ms"),
        ),
    ),
    Definition(
        name="reliability",
        description="failures of each agent in the window, mean times to repair and between failures",
        span=Span.MINUTES,
        filters=("agent", "type"),
        columns=columns(
            *("agent", "~type", "failures:n", "uptime_s:s", "downtime_s:s", "mttr_s:s", "mtbf_s:s"),
            *("longest_s:s", "open?"),
        ),
    ),
    Definition(
        name="system_load",
        description="how busy each host was, per minute up to 6 hours of window, per hour beyond",
        span=Span.SERIES,
        table=Table.SYSTEM,
        filters=("host",),
        columns=columns(
            *("bucket:utc", "host", "cpu_percent:%", "~cpu_percent_max:%", "load1:1"),
            *("memory_used_percent:%", "~swap_used_percent:%", "filesystem_used_percent:%"),
        ),
    ),
)
