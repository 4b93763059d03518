"""
Bringing rollups up to date, bottom-up: what is marked, and closed, is computed anew.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from storage.model import ROLLUPS, Table, Window
from storage.store import Store

log = logging.getLogger(__name__)

#: A bucket is closed this long after its end: the polls of its last second are on their way until then, and
#: a bucket that is refreshed before they arrive has to be refreshed again.
GRACE = timedelta(seconds=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshSummary:
    """What one round of refreshes did, over all tables and tiers."""

    buckets: int = 0
    rows: int = 0
    #: Tables that another refresher held; what they need stays marked.
    busy: tuple[Table, ...] = ()
    #: Wall-clock time of the round.
    duration_s: float = 0.0


def refresh_all(store: Store, now: datetime, *, grace: timedelta = GRACE, limit: int = 120) -> RefreshSummary:
    """
    Refresh every marked bucket that is closed at *now*, tier by tier, until none is left.

    Args:
        now: Aware UTC; buckets that end later than ``now - grace`` stay marked.
        grace: A daemon gives the store's own, so that the server's jobs, where there are any, come first.
        limit: Buckets per transaction.

    Raises:
        TransientStorageError: The database could not; marks are left as they were, call again.
    """
    started = time.monotonic()
    buckets = rows = 0
    busy: list[Table] = []
    for table in Table:
        for tier in ROLLUPS:
            while True:
                result = store.refresh(table, tier, closed_before=now - grace, limit=limit)
                if result.busy:
                    busy.append(table)
                buckets += result.buckets
                rows += result.rows
                if result.busy or not result.buckets:
                    break
    summary = RefreshSummary(
        buckets=buckets, rows=rows, busy=tuple(dict.fromkeys(busy)), duration_s=time.monotonic() - started
    )
    if buckets or busy:
        log.info(
            "refresh: %d buckets, %d rows in %.3f s%s",
            buckets,
            rows,
            summary.duration_s,
            f", busy: {', '.join(summary.busy)}" if busy else "",
            extra={"event": "refresh", "buckets": buckets, "rows": rows, "duration_s": summary.duration_s},
        )
    return summary


def rebuild(store: Store, window: Window, now: datetime) -> RefreshSummary:
    """
    Compute every rollup within *window* anew from raw rows, whether it is marked or not.

    Nothing below the raw horizon is touched: what raw no longer holds cannot be computed from it.
    """
    for table in Table:
        marked = store.mark(table, window)
        log.info("rebuild: %s has %d buckets marked", table, marked, extra={"event": "rebuild", "marks": marked})
    return refresh_all(store, now)
