"""
Proof: rollups against raw rows, raw rows against the ledger.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from rollups.refresh import GRACE, refresh_all
from storage.model import ROLLUPS, Table, Tier, Window
from storage.store import Capability, LedgerDay, Mismatch, Store

#: Rows are recomputed a day at a time: a statement's memory stays bounded whatever the retention is.
STRIDE = timedelta(days=1)
#: How often a refresher that is met by chance, a policy of the server's for instance, is given time to go, and how long.
TRIES, WAIT_S = 10, 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a verification looked at and found."""

    #: Window that was compared, per table clipped to its raw horizon.
    window: Window
    #: Raw rows that lie in it, per table.
    rows: dict[Table, int]
    mismatches: tuple[Mismatch, ...]
    #: Days on which the ledger and the table disagree.
    ledger: tuple[LedgerDay, ...]
    #: Closed buckets that are still marked where readers do not see through marks: they lag, and were not compared.
    unsettled: int = 0

    @property
    def holds(self) -> bool:
        """Tell whether nothing was found, and nothing left out that should have been refreshed by now."""
        return not self.mismatches and not self.ledger and not self.unsettled


def verify_tiers(store: Store, table: Table, window: Window, tiers: tuple[Tier, ...] = ROLLUPS) -> list[Mismatch]:
    """Compare the rollups of *table* within *window* with a GROUP BY over raw rows, a day at a time."""
    found: list[Mismatch] = []
    for tier in tiers:
        whole = window.aligned(tier.step)
        start = whole.start
        while start < whole.end:
            end = min(start + max(STRIDE, tier.step), whole.end)
            found.extend(store.verify_tier(table, tier, Window(start, end)))
            start = end
    return found


def _settle(store: Store, now: datetime) -> int:
    """Refresh what is marked and closed; return how many buckets that could not be done for."""
    overdue = now - 2 * store.grace
    if store.may_maintain():
        overdue = now - GRACE
        for _ in range(TRIES):
            if not refresh_all(store, now).busy:
                return 0
            time.sleep(WAIT_S)
    return sum(len(store.dirty(table, tier, overdue)) for table in Table for tier in ROLLUPS)


def verify(store: Store, now: datetime, window: Window | None = None) -> Proof:
    """
    Prove rollups against raw and raw against the ledger, everywhere above the raw horizons or in *window*.

    Where views are not exact at every moment, closed buckets that are marked are refreshed first: what is marked is known
    to lag, and proves nothing. What another refresher keeps from that is counted as unsettled; for a role that may not
    refresh, so is what nobody has refreshed in twice the time that it should take.

    Args:
        window: ``None`` for everything that raw still holds, up to five minutes ahead of *now*.
    """
    unsettled = 0 if Capability.EXACT_VIEWS in store.capabilities else _settle(store, now)
    days = store.verify_ledger()
    held = [part.window for table in Table for part in store.partitions(table, Tier.RAW)]
    if window is None:
        window = Window(min((each.start for each in held), default=now), max((each.end for each in held), default=now))
    mismatches: list[Mismatch] = []
    for table in Table:
        for part in store.partitions(table, Tier.RAW):
            start, end = max(part.window.start, window.start), min(part.window.end, window.end)
            if start < end:
                mismatches.extend(verify_tiers(store, table, Window(start, end)))
    rows = {table: sum(day.stored for day in days if day.table is table) for table in Table}
    return Proof(
        window=window,
        rows=rows,
        # Two days of one table may share a coarser bucket.
        mismatches=tuple({(m.table, m.tier, m.bucket, tuple(m.key.items())): m for m in mismatches}.values()),
        ledger=tuple(day for day in days if day.ledger != day.stored),
        unsettled=unsettled,
    )
