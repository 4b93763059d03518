"""
Watching what else works on the time series: the server's own jobs, and their settings.
"""

from __future__ import annotations

import logging

from rollups.policy import RetentionPolicy
from storage.model import Tier
from storage.store import Store

log = logging.getLogger(__name__)


class Audit:
    """Logs what endangers rollups, once, and again when it has been away; used by one thread."""

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()

    def run(self, store: Store, policy: RetentionPolicy) -> None:
        """
        Look at the server's jobs, and log what is wrong with them.

        Raises:
            TransientStorageError: The database could not answer.
        """
        found = findings(store, policy)
        for line in found:
            if line not in self._known:
                log.warning("rollups are in danger: %s", line, extra={"event": "audit"})
        self._known = frozenset(found)


def findings(store: Store, policy: RetentionPolicy) -> list[str]:
    """Return what is wrong with the server's own jobs, one line each."""
    return list(store.audit({tier: policy.keep(tier) for tier in Tier}))
