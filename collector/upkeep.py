"""
What the daemon does to keep its database in order: refreshes, retention, partitions. Jobs on threads of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from rollups import refresh, retention
from rollups.audit import Audit
from rollups.policy import RetentionPolicy
from storage.layout import AHEAD
from storage.model import Window, from_us
from storage.store import Store

log = logging.getLogger(__name__)


class Upkeep:
    """
    The jobs of one daemon; each may run beside the others.

    Args:
        store: Returns the store while the database is there.
        policy: How long each tier is kept.
        now_us: The timeline's clock.
    """

    def __init__(self, store: Callable[[], Store | None], policy: RetentionPolicy, now_us: Callable[[], int]) -> None:
        self._store = store
        self._policy = policy
        self._now_us = now_us
        self._audit = Audit()
        #: When the rollups were last brought up to date; written by the refresh alone, 0 before.
        self.refreshed_us = 0
        #: Whether the log says so; of two jobs that find it out at once both may.
        self._left_to_owner = False

    def refresh(self) -> None:
        """Bring the rollups up to date."""
        store = self._maintained()
        if store is not None:
            now_us = self._now_us()
            if not refresh.refresh_all(store, from_us(now_us), grace=store.grace).busy:
                self.refreshed_us = now_us

    def apply_retention(self) -> None:
        """Look for dangers, then drop what is older than the policy says."""
        store = self._maintained()
        if store is not None:
            self._audit.run(store, self._policy)
            retention.apply(store, self._policy, from_us(self._now_us()))

    def make_partitions(self) -> None:
        """Make the partitions of the next days."""
        store = self._store()
        if store is not None:
            now = from_us(self._now_us())
            store.ensure_partitions(Window(now, now + AHEAD))

    def _maintained(self) -> Store | None:
        """Return the store for what only the tables' owner may do; ``None`` while it is away, or when that is not us."""
        store = self._store()
        if store is None:
            return None
        if store.may_maintain():
            self._left_to_owner = False
            return store
        if not self._left_to_owner:
            self._left_to_owner = True
            log.warning(
                'refreshes and retention are left to "fleetpulse maintain": this role may only write',
                extra={"event": "maintenance_left"},
            )
        return None
