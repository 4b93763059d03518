"""
What is never taken: servers that will not do, databases of newer releases, moments that cannot be.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from psycopg import sql

from collector.buffer import Buffer
from collector.config import SpoolConfig
from collector.spool import Spool as DiskSpool
from collector.writer import Writer
from rollups.refresh import refresh_all
from rollups.verify import verify
from storage import schema
from storage.batch import END_US, Batch, Checks, Samples
from storage.errors import BatchError, CapabilityMissing, SchemaMismatch, StorageError
from storage.model import EPOCH, Loss, Outcome, Table, Tier, Transition, Window, from_us, to_us
from storage.open import open_store
from storage.store import Capability, Store
from tests.batches import NOON, SESSION, Spool
from tests.faults import administer
from tests.tampering import tamper

DAY = timedelta(days=1)
WAIT_S = 20.0
NAIVE = NOON.replace(tzinfo=None)


def count(store: Store, relation: str) -> int:
    """Return the number of rows of *relation*."""
    return int(str(store.query(f"SELECT count(*) FROM {relation}").rows[0][0]))  # noqa: S608  # own names


# ---------------------------------------------------------------- servers that will not do


@pytest.mark.needs(Capability.COPY)
def test_timescaledb_without_its_extension(empty_database_url: str) -> None:
    """Asked for by name where the extension is not there, the engine says so, what would help, and makes nothing."""
    administer(empty_database_url, sql.SQL("DROP EXTENSION IF EXISTS timescaledb CASCADE"))
    store = open_store(empty_database_url, "timescaledb")
    try:
        schema.upgrade(store.engine)
        attempts: list[Callable[[], object]] = [store.provision, store.check_schema, store.server_version]
        for attempt in attempts:
            with pytest.raises(CapabilityMissing) as caught:
                attempt()
            assert re.search(r"found PostgreSQL \d.* without the extension in this database", str(caught.value))
            assert '"CREATE EXTENSION timescaledb", or set engine = "postgresql"' in str(caught.value)
        found = store.timeseries_version()[0]
    finally:
        store.close()
    other = open_store(empty_database_url, "postgresql")
    try:
        other.provision()
        other.check_schema()
        written = other.write(Spool().batch(samples=[("a", "m", NOON, 1.0)]))
    finally:
        other.close()

    assert found == 0
    assert written.accepted == 1


@pytest.mark.needs(Capability.COPY)
def test_time_series_of_the_other_engine(store: Store, database_url: str) -> None:
    """An engine leaves alone what was provisioned for another one, and names both."""
    mine = store.engine_name
    other = open_store(database_url, "postgresql" if mine == "timescaledb" else "timescaledb")
    try:
        with pytest.raises((SchemaMismatch, CapabilityMissing)) as caught:
            other.check_schema()
        with pytest.raises((SchemaMismatch, CapabilityMissing)):
            other.provision()
    finally:
        other.close()

    store.check_schema()
    if mine == "timescaledb":
        assert 'were made for engine timescaledb, code uses postgresql: set engine = "timescaledb"' in str(caught.value)
    else:
        assert 'or set engine = "postgresql"' in str(caught.value)


# ---------------------------------------------------------------- databases of newer releases


def newer_series(store: Store) -> None:
    """Have the time series be of a later release."""
    tamper(store, "UPDATE provision_version SET version = 99")


def newer_revision(store: Store) -> None:
    """Have the relational half be of a later release."""
    tamper(store, f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")  # noqa: S608  # a constant


def test_newer_time_series_are_left_alone(store: Store) -> None:
    """Both versions are named, with what to do; nothing is made or changed."""
    store.write(Spool().batch(samples=[("a", "m", NOON, 1.0)]))
    needed = store.timeseries_version()[1]
    newer_series(store)
    attempts: list[Callable[[], object]] = [store.check_schema, store.provision]
    for attempt in attempts:
        with pytest.raises(SchemaMismatch) as caught:
            attempt()
        assert str(caught.value) == (
            f"time series are at version 99, code knows up to {needed}: install the newer fleetpulse"
        )
        assert (caught.value.found, caught.value.needed) == ("99", str(needed))

    assert store.timeseries_version() == (99, needed)
    assert count(store, "agent_metrics") == 1


def test_newer_revision_is_left_alone(store: Store) -> None:
    """The store's own check looks at the relational half, too, and names both revisions and what to do."""
    newer_revision(store)
    with pytest.raises(SchemaMismatch) as caught:
        store.check_schema()

    assert str(caught.value) == (
        f"database is at revision 9999, code needs {schema.head()}: install the newer fleetpulse"
    )
    assert (caught.value.found, caught.value.needed) == ("9999", schema.head())
    assert schema.current(store.engine) == "9999"


@pytest.mark.parametrize("newer", [newer_series, newer_revision])
def test_collector_writes_nothing_into_a_newer_database(
    store: Store, database_url: str, tmp_path: Path, newer: Callable[[Store], None]
) -> None:
    """The collector's writer ends with the mismatch before its first statement that writes; its batches stay spooled."""
    newer(store)
    spool = DiskSpool(tmp_path, SpoolConfig())
    try:
        buffer = Buffer()
        buffer.add("a", to_us(NOON), Outcome.HEALTHY, 0, 1, 200, "")
        spool.append(buffer.take(0), SESSION).result(WAIT_S)
        writer = Writer(
            lambda: open_store(database_url), spool, SESSION, (), on_agents=lambda _: None, on_end=lambda: None
        )
        writer.start()
        try:
            ended = writer.join(WAIT_S)
            kept = spool.stats().batches
        finally:
            writer.stop(0)
            writer.join(WAIT_S)
    finally:
        spool.close()

    assert ended
    assert isinstance(writer.fatal, SchemaMismatch)
    assert "install the newer fleetpulse" in str(writer.fatal)
    assert kept == 1
    assert [count(store, each) for each in ("ingest_batches", "collector_sessions", "agents")] == [0, 0, 0]


# ---------------------------------------------------------------- moments that cannot be


def dated(batch: Batch, table: Table, ts_us: int) -> Batch:
    """Return *batch* with every row of *table* at another moment."""
    columns = batch.columns(table)
    changed = replace(columns, ts_us=np.full(len(columns), ts_us, np.int64))
    if isinstance(changed, Checks):
        return replace(batch, checks=changed)
    assert isinstance(changed, Samples)
    return replace(batch, agent_samples=changed) if table is Table.AGENT else replace(batch, system_samples=changed)


@pytest.mark.parametrize("table", list(Table))
def test_rows_outside_the_years_that_are_stored(store: Store, table: Table) -> None:
    """Rows of year 1, of before 1970, of 2200 and later make no batch; nothing is written, and its number stays free."""
    batch = Spool().batch(
        checks=[("a", NOON, Outcome.HEALTHY, 1.0)], samples=[("a", "m", NOON, 1.0)], system=[("h", "m", NOON, 1.0)]
    )
    year_1, year_9999 = (to_us(datetime(year, 1, 1, tzinfo=UTC)) for year in (1, 9999))
    for ts_us in (-(2**63), year_1, -1, END_US, year_9999, 2**63 - 1):
        with pytest.raises(BatchError, match=f"{table} has rows dated outside 1970 to 2199"):
            store.write(dated(batch, table, ts_us))
    before = [count(store, each) for each in ("ingest_batches", "marks", "agents")]
    result = store.write(batch)

    assert before == [0, 0, 0]
    assert (result.accepted, result.replayed) == (3, False)
    assert verify(store, NOON + DAY).holds


def test_garbage_dates_are_counted_and_leave_nothing_behind(store: Store) -> None:
    """What a clock says that is years off is refused by reason, partitions and tiers stay as they are; others are stored."""
    spool = Spool()
    store.write(spool.batch(samples=[("a", "m", NOON, 1.0)]))
    store.close_below(Table.AGENT, Tier.RAW, NOON.replace(hour=0))
    before = [part.window for part in store.partitions(Table.AGENT, Tier.RAW)]
    garbage = (EPOCH, datetime(1999, 12, 31, tzinfo=UTC), datetime(2106, 2, 7, tzinfo=UTC), from_us(END_US - 1))
    found = [dict(store.write(spool.batch(samples=[("a", "m", at, 1.0)])).rejected) for at in garbage]
    refresh_all(store, NOON + DAY)
    rows = store.query("SELECT reason, sum(n) FROM ingest_rejections GROUP BY reason ORDER BY reason").rows

    assert found == [{"below_horizon": 1}, {"below_horizon": 1}, {"too_far_ahead": 1}, {"too_far_ahead": 1}]
    assert rows == [("below_horizon", 2), ("too_far_ahead", 2)]
    assert [part.window for part in store.partitions(Table.AGENT, Tier.RAW)] == before
    assert store.query("SELECT n, sum FROM agent_metrics_1d").rows == [(1, 1.0)]
    assert verify(store, NOON + DAY).holds


def test_one_row_ahead_of_the_clock_keeps_no_other_back(store: Store) -> None:
    """Of a batch whose day holds the furthest moment that is taken, what is dated before it is stored, the rest counted."""
    midnight = (datetime.now(UTC) + DAY).replace(hour=0, minute=0, second=0, microsecond=0)
    last = midnight + DAY - timedelta(microseconds=1)
    result = store.write(
        Spool().batch(
            samples=[("a", "m", midnight, 1.0), ("a", "m", last, 2.0), ("b", "m", midnight, 3.0)],
            checks=[("a", midnight, Outcome.HEALTHY, 1.0), ("a", last, Outcome.HEALTHY, 1.0)],
        )
    )

    assert (result.accepted, dict(result.rejected)) == (3, {"too_far_ahead": 2})
    assert store.query("SELECT value FROM agent_metrics ORDER BY value").rows == [(1.0,), (3.0,)]
    assert store.query("SELECT n, reason FROM losses").rows == [(1, "too_far_ahead")]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"transitions": (Transition(agent="a", due=NAIVE, old="unknown", new="healthy"),)}, "transition is dated"),
        ({"losses": (Loss(agent="a", from_due=NOON, to_due=NAIVE, n=1, reason="spool_full"),)}, "loss is dated"),
        ({"session": replace(SESSION, started_at=NAIVE)}, "session is dated"),
        ({"observed_to_us": 2**62}, f"observed_to_us {2**62}, expected 0 to"),
        ({"observed_to_us": -1}, "observed_to_us -1, expected 0 to"),
    ],
)
def test_batch_with_a_moment_that_is_none(store: Store, part: dict[str, object], said: str) -> None:
    """A moment without a time zone, and one that no calendar has, is the batch's fault on every engine."""
    batch = Spool().batch(samples=[("a", "m", NOON, 1.0)])
    with pytest.raises(BatchError, match=said):
        store.write(replace(batch, **part))  # type: ignore[arg-type]  # by name

    assert count(store, "ingest_batches") == 0
    assert store.write(batch).accepted == 1


def test_moments_without_a_time_zone_are_refused(store: Store) -> None:
    """No method guesses which moment is meant: each engine refuses, and nothing has moved."""
    store.write(Spool().batch(samples=[("a", "m", NOON, 1.0)]))
    before = (store.horizons(), count(store, "marks"), count(store, "ingest_batches"))
    attempts: list[Callable[[], object]] = [
        lambda: store.dirty(Table.AGENT, Tier.M1, NAIVE),
        lambda: store.refresh(Table.AGENT, Tier.M1, closed_before=NAIVE),
        lambda: store.close_below(Table.AGENT, Tier.RAW, NAIVE),
        lambda: store.drop_below(Table.AGENT, Tier.RAW, NAIVE),
        lambda: store.boundary(Tier.RAW, NAIVE),
        lambda: store.boundary(Tier.D1, NAIVE),
        lambda: store.purge_ledger(NAIVE),
        lambda: store.open_session(replace(SESSION, uuid=str(Spool().spool_id), started_at=NAIVE)),
        lambda: store.query("SELECT count(*) FROM agent_metrics WHERE ts < :at", {"at": NAIVE}),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError, match=r"2026-03-10.1[12]:\d\d:00.*add tzinfo=UTC"):
            attempt()
    with pytest.raises(ValueError, match="add tzinfo=UTC"):
        store.ensure_partitions(Window(NAIVE, NAIVE))

    assert (store.horizons(), count(store, "marks"), count(store, "ingest_batches")) == before
    assert store.query("SELECT count(*) FROM agent_metrics WHERE ts < :at", {"at": NOON + DAY}).rows == [(1,)]
