"""
Reports about the health of agents and hosts.
"""

from __future__ import annotations

from reports.definition import Definition, Span, columns

HEALTH = (
    Definition(
        name="availability",
        description="slots of each agent in the window: expected, up, down, unobserved, paused",
        span=Span.MINUTES,
        filters=("agent", "type"),
        columns=columns(
            *("agent", "~type", "expected:slots", "up:slots", "down:slots", "unobserved:slots"),
            *("~skipped:slots", "~lost:slots", "paused:slots", "availability:ratio", "coverage:ratio"),
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
        name="system_load",
        description="how busy each host was, per minute up to 6 hours of window, per hour beyond",
        span=Span.SERIES,
        filters=("host",),
        columns=columns(
            *("bucket:utc", "host", "cpu_percent:%", "~cpu_percent_max:%", "load1:1"),
            *("memory_used_percent:%", "swap_used_percent:%", "filesystem_used_percent:%"),
        ),
    ),
)
