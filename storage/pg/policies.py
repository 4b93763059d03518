"""
The server's own jobs on TimescaleDB: what they are set to, and what would be wrong with other settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import psycopg

from storage.layout import parent
from storage.model import ROLLUPS, Table, Tier
from storage.queries import load


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshPolicy:
    """A job that refreshes what has changed in ``[now - reach, now - delay)``."""

    reach: timedelta
    #: At least one bucket: a bucket that is refreshed while it fills is refreshed again.
    delay: timedelta
    every: timedelta


#: How far a policy reaches must be less than what it computes from is kept for: what it found dropped, it would compute
#: from nothing. What comes later than it reaches is refreshed by its mark.
REFRESH: Mapping[Tier, RefreshPolicy] = {
    Tier.M1: RefreshPolicy(reach=timedelta(hours=6), delay=timedelta(minutes=1), every=timedelta(minutes=1)),
    Tier.H1: RefreshPolicy(reach=timedelta(days=1), delay=timedelta(hours=1), every=timedelta(minutes=15)),
    Tier.D1: RefreshPolicy(reach=timedelta(days=4), delay=timedelta(days=1), every=timedelta(hours=6)),
}

#: When chunks turn to columns: behind what policies still refresh and late rows still reach; an hour-tier chunk holds
#: thirty days.
COLUMNSTORE_AFTER: Mapping[Tier, timedelta] = {
    Tier.RAW: timedelta(days=3),
    Tier.M1: timedelta(days=3),
    Tier.H1: timedelta(days=35),
    Tier.D1: timedelta(days=400),
}

#: A run of a policy that was missed, and retention's cut at whole days, must fit between reach and retention.
MARGIN = timedelta(hours=1)


def audit(connection: psycopg.Connection, keep: Mapping[Tier, timedelta | None]) -> list[str]:
    """Compare the server's jobs with what keeps rollups whole; see ``Store.audit``."""
    relations = {parent(table, tier): tier for table in Table for tier in Tier}
    statements = load("storage", "sql/timescaledb/jobs.sql")
    rows = connection.execute(statements["policies"], {"relations": list(relations)}).fetchall()
    found = [
        f"{relation} was refreshed by hand up to {watermark:%Y-%m-%d %H:%M}Z, which is yet to come: until then its newest "
        "rows show when their bucket has ended, not at once; give refresh_continuous_aggregate an end before the running "
        "bucket"
        for relation, watermark in connection.execute(statements["watermarks"], {"relations": list(relations)})
    ]
    refreshed: set[str] = set()
    reach: dict[str, timedelta | None] = {}
    for relation, job, start, end, _after, scheduled, _late in rows:
        if job == "policy_retention":
            found.append(
                f"{relation} has a retention policy of the server's own: it drops what is not rolled up yet; "
                f"run \"SELECT remove_retention_policy('{relation}')\", fleetpulse drops by its own settings"
            )
        if job == "policy_refresh_continuous_aggregate":
            refreshed.add(relation)
            reach[relation] = start
            found.extend(_refresh_objections(relation, relations[relation], start, end, keep))
            if not scheduled:
                found.append(
                    f"refresh policy of {relation} is switched off: while no daemon runs, nothing refreshes it; "
                    'run "SELECT alter_job(job_id, scheduled => true)" for it'
                )
    for relation, job, _start, _end, after, _scheduled, late in rows:
        if job == "policy_compression" and relation in reach and after is not None:
            start = reach[relation]
            if start is not None and after <= start:
                found.append(
                    f"{relation} turns to columns after {after}, expected later than its refresh policy reaches back, "
                    f"{start}: every refresh would have to take compressed rows apart"
                )
        if late:
            found.append(
                f"{job} of {relation} is long overdue: the server has no background worker for it, "
                "raise timescaledb.max_background_workers and max_worker_processes"
            )
    found.extend(
        f"{parent(table, tier)} has no refresh policy: while no daemon runs, nothing refreshes it"
        for table in Table
        for tier in ROLLUPS
        if parent(table, tier) not in refreshed
    )
    return found


def _refresh_objections(
    relation: str,
    tier: Tier,
    start: timedelta | None,
    end: timedelta | None,
    keep: Mapping[Tier, timedelta | None],
) -> list[str]:
    found: list[str] = []
    kept = keep[tier.finer]
    if kept is not None:
        limit = kept - tier.step - MARGIN
        if start is None or start >= limit:
            reaches = "everything" if start is None else str(start)
            found.append(
                f"refresh policy of {relation} reaches back over {reaches}, expected less than {limit}, because "
                f"{tier.finer} is kept for {kept}: it would compute buckets from rows that are gone"
            )
    if end is None or end < tier.step:
        found.append(
            f"refresh policy of {relation} goes up to {end} before now, expected at least one bucket, {tier.step}: "
            "its watermark would run ahead of the rows"
        )
    return found
