"""
The owner's half of the daemon's work, in a process of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue

import pytest
from sqlalchemy import event
from sqlalchemy.engine import make_url

from rollups.maintenance import Maintainer
from rollups.policy import RetentionPolicy
from storage.errors import FleetpulseError, StorageError
from storage.model import Outcome, Table, Tier
from storage.open import open_store
from storage.store import Capability, Store
from tests.batches import NOON, Spool
from tests.daemon.conditions import eventually
from tests.roles import lent
from tests.servers import Servers


class Running:
    """A maintainer on a thread of its own."""

    def __init__(self, maintainer: Maintainer) -> None:
        self.end: SimpleQueue[None] = SimpleQueue()
        self.error: FleetpulseError | None = None
        self._thread = threading.Thread(target=self._run, args=(maintainer,))
        self._thread.start()

    def _run(self, maintainer: Maintainer) -> None:
        try:
            maintainer.run(self.end)
        except FleetpulseError as exc:
            self.error = exc

    def stop(self) -> None:
        """End it, and wait until it has."""
        self.end.put(None)
        self.join()

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.join(30)
        assert not self._thread.is_alive()


def dirty(store: Store) -> Callable[[], bool]:
    """Return what tells whether no bucket is left to be refreshed."""
    return lambda: not any(store.dirty(Table.HEALTH, tier, datetime.now(UTC)) for tier in Tier if tier is not Tier.RAW)


def test_maintainer_refreshes_drops_and_makes_partitions(store: Store) -> None:
    """What was marked is computed, what is past its time goes, and the days to come have their partitions."""
    store.write(Spool().batch(checks=[("a", NOON, Outcome.HEALTHY, 1.0)]))
    now = NOON + timedelta(days=30)
    maintainer = Maintainer(store, RetentionPolicy(), refresh_s=60, now=lambda: now)
    maintainer.refresh()
    refreshed = dirty(store)()
    result = maintainer.housekeeping()

    assert refreshed
    assert result.ok
    assert [part.table for step in result.steps for part in step.dropped if part.tier is Tier.RAW][:1] == [Table.HEALTH]
    assert store.query("SELECT n FROM health_1d").rows == [(1,)]


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_maintainer_goes_on_until_it_is_told(store: Store) -> None:
    """Rounds follow each other; what is put into the queue ends them."""
    running = Running(Maintainer(store, RetentionPolicy(raw=None, m1=None, h1=None), refresh_s=0.02))
    try:
        for minute in range(3):
            store.write(Spool().batch(checks=[("a", NOON + timedelta(minutes=minute), Outcome.HEALTHY, 1.0)]))
            eventually(dirty(store), "refreshed rollups")
    finally:
        running.stop()

    assert running.error is None
    assert store.query("SELECT n FROM health_1d").rows == [(3,)]


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_maintainer_waits_for_a_database_that_is_away(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each kind of work says that it is away, however often it is tried; that is no end."""
    away = make_url(database_url).set(host="127.0.0.1", port=1, query={}).render_as_string(hide_password=False)
    with closing(open_store(away)) as nowhere, caplog.at_level(logging.INFO):
        tries = 0

        def count(*_arguments: object) -> None:
            nonlocal tries
            tries += 1

        event.listen(nowhere.engine, "do_connect", count)
        running = Running(Maintainer(nowhere, RetentionPolicy(), refresh_s=0.01))
        try:
            eventually(lambda: tries > 5, "several tries")
        finally:
            running.stop()
        lines = [record.message for record in caplog.records if "failed" in record.message]

    assert running.error is None
    assert len(lines) == 2
    assert all("Connection refused" in line for line in lines)


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_maintainer_is_none_without_the_owners_rights(database_servers: Servers, engine_name: str) -> None:
    """A role that may only write ends it at once, with the remedy."""
    with lent(database_servers, engine_name) as place:
        place.apply()
        with place.store(place.names.writer) as store:
            running = Running(Maintainer(store, RetentionPolicy(), refresh_s=60))
            running.join()

    assert isinstance(running.error, StorageError)
    assert 'address of the owner that "fleetpulse db roles" made' in str(running.error)
