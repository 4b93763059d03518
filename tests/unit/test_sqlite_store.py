"""
What the ``sqlite`` engine does in its own way: one file, one writer at a time, bounded deletes, statements that are fast.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import event

from rollups.refresh import rebuild, refresh_all
from rollups.verify import verify
from storage import deadlines, schema
from storage.deadlines import Deadline
from storage.errors import CollectorRunning, SchemaMismatch, StorageError, TransientStorageError
from storage.lite import functions, retention, rollups
from storage.model import ROLLUPS, Outcome, Table, Tier, Window, to_us
from storage.models import Base
from storage.sqlite import SqliteStore
from tests.batches import NOON, SESSION, Spool, every
from tests.servers import Servers
from tests.tampering import tamper

LATER = NOON + timedelta(days=40)
MIDNIGHT = NOON - timedelta(hours=12)
#: Short enough to wait for what is never given.
HASTY = Deadline(statement_ms=60_000, lock_ms=50)


@pytest.fixture
def path(database_servers: Servers) -> Iterator[Path]:
    """Return a fresh database file with both halves of the schema."""
    with database_servers.database("sqlite") as url:
        yield Path(url.removeprefix("sqlite:///"))


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    """Return a store on a fresh file."""
    found = SqliteStore(f"sqlite:///{path}")
    yield found
    found.close()


def samples(store: SqliteStore, relation: str) -> list[tuple[object, ...]]:
    """Return the rows of a rollup of samples, by bucket and agent."""
    statement = f"SELECT bucket, agent_id, n, sum, last FROM {relation} ORDER BY bucket, agent_id"  # noqa: S608  # own names
    return list(store.query(statement, types={"bucket": datetime}).rows)


# ---------------------------------------------------------------- where it is


def test_memory_is_a_whole_database() -> None:
    """A store in memory writes, shows, refreshes and proves, whichever thread asks."""
    store = SqliteStore("sqlite://")
    try:
        schema.upgrade(store.engine)
        store.provision()
        store.check_schema()
        store.claim_collector("one")
        spool = Spool()
        batches = [
            spool.batch(
                samples=[("a", "m", NOON + timedelta(minutes=k), float(k))], checks=[("a", NOON, Outcome(0), 1.0)]
            )
            for k in range(20)
        ]
        with ThreadPoolExecutor(3) as pool:
            written = pool.submit(store.write, batches[0]).result()
            reading = [pool.submit(samples, store, "agent_metrics_1h") for _ in range(5)]
            for batch in batches[1:]:
                store.write(batch)
            seen = [each.result() for each in reading]
        before = samples(store, "agent_metrics_1h")
        refresh_all(store, LATER)

        assert written.accepted == 2
        assert all(1 <= rows[0][2] <= 20 for rows in seen)  # type: ignore[operator]  # a count
        assert before == samples(store, "agent_metrics_1h") == [(NOON, 1, 20, 190.0, 19.0)]
        assert verify(store, LATER).holds
    finally:
        store.close()


def test_identity_is_of_the_file_and_its_time_series(path: Path, store: SqliteStore) -> None:
    """A copy, and time series that were made anew, have another identity than the file had."""
    first = store.server_identity()
    copy = path.with_name("copy.db")
    shutil.copyfile(path, copy)
    other = SqliteStore(f"sqlite:///{copy}")
    try:
        copied = other.server_identity()
    finally:
        other.close()
    store.drop()
    store.provision()

    assert len({first, copied, store.server_identity()}) == 3


def test_write_follows_the_file_that_is_there(path: Path, store: SqliteStore, database_servers: Servers) -> None:
    """After another file was put in the place of the one that was written, ids are looked up anew in it."""
    spool = Spool()
    store.write(spool.batch(samples=[("a", "m", NOON, 1.0), ("b", "m", NOON, 2.0)]))
    with database_servers.database("sqlite") as url:
        other = SqliteStore(url)
        try:
            other.write(Spool().batch(samples=[("b", "m", NOON, 3.0), ("c", "m", NOON, 4.0), ("a", "m", NOON, 5.0)]))
        finally:
            other.close()
        # The last connection leaves no log behind.
        store.engine.dispose()
        os.replace(url.removeprefix("sqlite:///"), path)
    store.write(spool.batch(samples=[("a", "m", NOON, 6.0), ("b", "m", NOON, 7.0)]))
    rows = store.query(
        "SELECT a.name, r.value FROM agent_metrics AS r JOIN agents AS a ON a.id = r.agent_id ORDER BY r.value"
    ).rows

    assert rows == [("b", 3.0), ("c", 4.0), ("a", 5.0), ("a", 6.0), ("b", 7.0)]


def test_file_that_went_away_keeps_batches_back(path: Path, store: SqliteStore) -> None:
    """While the file is gone nothing is acknowledged; once it is back, the batch that was refused is written."""
    spool = Spool()
    store.write(spool.batch(samples=[("a", "m", NOON, 1.0)]))
    away = path.with_name("away.db")
    path.rename(away)
    batch = spool.batch(samples=[("a", "m", NOON, 2.0)])
    with pytest.raises(TransientStorageError, match="was moved or replaced") as caught:
        store.write(batch)
    away.rename(path)
    result = store.write(batch)

    assert caught.value.sqlstate == "58P01"
    assert result.accepted == 1
    assert store.query("SELECT value FROM agent_metrics ORDER BY value").rows == [(1.0,), (2.0,)]


def test_file_without_time_series_names_the_remedy(tmp_path: Path) -> None:
    """Where a file was removed before the start, batches are kept, and the message says what to do."""
    store = SqliteStore(f"sqlite:///{tmp_path / 'new.db'}")
    try:
        with pytest.raises(TransientStorageError, match=r'no time series: run "fleetpulse db upgrade", or put back'):
            store.write(Spool().batch(samples=[("a", "m", NOON, 1.0)]))
    finally:
        store.close()


def test_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    """Text in the place of a database is an error that says so, and is left as it is."""
    path = tmp_path / "notes.db"
    path.write_text("remember the milk, " * 100)
    store = SqliteStore(f"sqlite:///{path}")
    try:
        with pytest.raises(TransientStorageError, match=r"file is not a database.*correct the address") as caught:
            store.write(Spool().batch(samples=[("a", "m", NOON, 1.0)]))
    finally:
        store.close()

    assert caught.value.sqlstate == "XX001"
    assert path.read_text().startswith("remember the milk")


def test_full_disk_takes_a_batch_whole_or_not_at_all(store: SqliteStore) -> None:
    """A batch that finds no room leaves no row, no id and no ledger entry behind, and is written when there is room."""
    pages = store.query("SELECT page_count FROM pragma_page_count()").rows[0][0]

    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    batch = Spool().batch(samples=[(f"a{k}", "m", at, 1.0) for k, at in enumerate(every(NOON, 1, 5000))])
    store.engine.dispose()
    event.listen(store.engine, "connect", limit)
    with pytest.raises(TransientStorageError, match="free space on the disk") as caught:
        store.write(batch)
    counts = "SELECT (SELECT count(*) FROM agents), (SELECT count(*) FROM agent_metrics), (SELECT count(*) FROM marks)"
    before = store.query(counts).rows
    event.remove(store.engine, "connect", limit)
    store.engine.dispose()
    result = store.write(batch)

    assert caught.value.sqlstate == "53100"
    assert before == [(0, 0, 0)]
    assert result.accepted == 5000
    assert store.query(counts).rows == [(5000, 5000, 84)]


# ---------------------------------------------------------------- schema


def test_schema_of_newer_code_and_other_engines_is_refused(store: SqliteStore) -> None:
    """Time series that this code does not know are neither used nor changed."""
    store.provision()
    store.check_schema()
    tamper(store, "UPDATE provision_version SET version = 99")
    with pytest.raises(SchemaMismatch, match="time series are at version 99, code knows up to 2: install the newer"):
        store.check_schema()
    with pytest.raises(SchemaMismatch, match="install the newer fleetpulse"):
        store.provision()
    tamper(store, "UPDATE provision_version SET version = 1, engine = 'duckdb'")
    with pytest.raises(SchemaMismatch, match="made for engine duckdb, code uses sqlite"):
        store.check_schema()


def test_drop_leaves_the_relational_half(store: SqliteStore) -> None:
    """Without time series the schema check names the remedy, and nothing of them is left."""
    store.write(Spool().batch(samples=[("a", "m", NOON, 1.0)]))
    store.drop()
    left = {str(row[0]) for row in store.query("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')").rows}

    assert left - {"alembic_version", "sqlite_sequence"} == set(Base.metadata.tables)
    assert store.query("SELECT name FROM agents").rows == [("a",)]
    assert store.timeseries_version() == (0, 2)
    with pytest.raises(SchemaMismatch, match='time series are not provisioned, code needs version 2: run "fleetpulse'):
        store.check_schema()
    with pytest.raises(TransientStorageError, match="has no time series"):
        store.server_identity()


# ---------------------------------------------------------------- one writer at a time


def test_write_waits_and_is_told(store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that does not get its turn in time is not written, and is when it is offered again."""
    monkeypatch.setattr(deadlines, "WRITE", HASTY)
    batch = Spool().batch(samples=[("a", "m", NOON, 1.0)])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransientStorageError, match=r"another process or thread writes") as caught:
            store.write(batch)
        other.execute("ROLLBACK")

    assert caught.value.sqlstate == "55P03"
    assert store.write(batch).accepted == 1


def test_refresh_and_close_while_another_writes(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refresh that does not get its turn says that it was busy, and a horizon does not move past a writer."""
    monkeypatch.setattr(deadlines, "REFRESH", HASTY)
    monkeypatch.setattr(deadlines, "DDL", HASTY)
    store.write(Spool().batch(samples=[("a", "m", NOON, 1.0)]))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        busy = store.refresh(Table.AGENT, Tier.M1, closed_before=LATER)
        idle = store.refresh(Table.HEALTH, Tier.M1, closed_before=LATER)
        with pytest.raises(TransientStorageError) as caught:
            store.close_below(Table.AGENT, Tier.RAW, NOON)
        other.execute("ROLLBACK")
    free = store.refresh(Table.AGENT, Tier.M1, closed_before=LATER)

    assert (busy.busy, busy.buckets) == (True, 0)
    assert (idle.busy, idle.buckets) == (False, 0)
    assert caught.value.sqlstate == "55P03"
    assert {each.closed_before.year for each in store.horizons()} == {1970}
    assert (free.busy, free.buckets, free.marks) == (False, 1, 1)


def test_refresh_lets_others_write_in_between(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refresh that has held up writers for long ends with what it has done; the next one goes on."""
    monkeypatch.setattr(rollups, "HOLD_S", 0.0)
    store.write(Spool().batch(samples=[("a", "m", at, 1.0) for at in every(NOON, 60, 3)]))
    taken = [store.refresh(Table.AGENT, Tier.M1, closed_before=LATER).buckets for _ in range(4)]
    refresh_all(store, LATER)

    assert taken == [1, 1, 1, 0]
    assert store.query("SELECT count(*) FROM marks").rows == [(0,)]
    assert verify(store, LATER).holds


def test_refresh_out_of_time_goes_on_with_less(store: SqliteStore) -> None:
    """A refresh that exceeds its deadline is tried with fewer buckets, so that a backlog gets smaller at all."""
    store.write(Spool().batch(samples=[("a", "m", at, 1.0) for at in every(NOON, 60, 100)]))
    filled = 0

    def trace(connection: sqlite3.Connection, _record: object) -> None:
        def count(statement: str) -> None:
            nonlocal filled
            if statement.startswith("BEGIN"):
                filled = 0
            elif statement.startswith("INSERT INTO agent_metrics_1m"):
                filled += 1
                if filled > 10:
                    # As the deadline does it.
                    connection.interrupt()

        connection.set_trace_callback(count)

    store.engine.dispose()
    event.listen(store.engine, "connect", trace)
    result = store.refresh(Table.AGENT, Tier.M1, closed_before=LATER, limit=100)

    assert result.buckets == 100 // 4 // 4
    assert store.query("SELECT count(*) FROM agent_metrics_1m_mat").rows == [(6,)]
    assert verify(store, LATER).holds


def test_processes_that_are_killed_lose_and_double_nothing(path: Path, store: SqliteStore) -> None:
    """Two writing processes, one of which is killed and started over, and a refresher: each row is there once."""
    spools = {"left": UUID(int=0), "right": UUID(int=1)}
    children = {name: _writer(path, name, spool) for name, spool in spools.items()}
    try:
        deadline = time.monotonic() + 60
        while len(store.query("SELECT seq FROM ingest_batches WHERE spool_id = :id", {"id": spools["left"]}).rows) < 20:
            assert time.monotonic() < deadline, "the writer wrote nothing"
            refresh_all(store, LATER)
        children["left"].kill()
        children["left"].wait()
        hours = Window(NOON, NOON + timedelta(hours=2))
        found = [each for tier in ROLLUPS for each in store.verify_tier(Table.AGENT, tier, hours)]
        children["left"] = _writer(path, "left", spools["left"])
        codes = [child.wait(timeout=60) for child in children.values()]
    finally:
        for child in children.values():
            child.kill()
            child.wait()
    refresh_all(store, LATER)

    assert found == []
    assert codes == [0, 0]
    assert store.query("SELECT count(*), sum(n_rows) FROM ingest_batches").rows == [(400, 2000)]
    assert store.query("SELECT sum(n) FROM agent_metrics_1d_mat").rows == [(2000,)]
    assert verify(store, LATER).holds


_WRITER = """
import sys
from datetime import timedelta
from uuid import UUID
from storage.errors import TransientStorageError
from storage.sqlite import SqliteStore
from tests.batches import NOON, Spool

url, name, spool_id = sys.argv[1:]
store, spool = SqliteStore(url), Spool()
spool.spool_id = UUID(spool_id)
for k in range(200):
    at = NOON + timedelta(seconds=30 * k)
    batch = spool.batch(samples=[(name, "m", at + timedelta(seconds=i), 1.0) for i in range(5)])
    while True:
        try:
            store.write(batch)
            break
        except TransientStorageError:
            continue
store.close()
"""


def _writer(path: Path, name: str, spool_id: UUID) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, f"sqlite:///{path}", name, str(spool_id)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
    )


# ---------------------------------------------------------------- one collector


def test_claim_names_the_holder(store: SqliteStore, path: Path) -> None:
    """Who comes second is told who the first is; the lock is let go with ``close``, and never needs the database."""
    other = SqliteStore(f"sqlite:///{path}")
    try:
        store.claim_collector("one")
        store.claim_collector("one")
        with pytest.raises(
            CollectorRunning, match=rf"collector one, process {os.getpid()} on .* holds .*test\.db\.collector; stop"
        ):
            other.claim_collector("two")
        store.close()
        other.claim_collector("two")
        with pytest.raises(CollectorRunning, match="collector two"):
            store.claim_collector("one")
    finally:
        other.close()


def test_claim_of_a_killed_process_is_free(store: SqliteStore, path: Path) -> None:
    """The system lets go of the lock of a process that was killed; its name in the file keeps nobody out."""
    code = (
        "import sys; from storage.sqlite import SqliteStore\n"
        "store = SqliteStore(sys.argv[1]); store.claim_collector('one'); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, f"sqlite:///{path}"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        said = child.stdout.readline()
        with pytest.raises(CollectorRunning, match=f"collector one, process {child.pid}"):
            store.claim_collector("two")
        child.kill()
    store.claim_collector("two")

    assert said == b"held\n"
    assert json.loads(path.with_name("test.db.collector").read_text())["collector"] == "two"


def test_claim_without_a_folder_is_transient(tmp_path: Path) -> None:
    """A lock that cannot be made is named."""
    store = SqliteStore(f"sqlite:///{tmp_path / 'gone' / 'test.db'}")
    try:
        with pytest.raises(
            TransientStorageError, match=r"lock .*gone/test\.db\.collector cannot be made: no such file"
        ):
            store.claim_collector("one")
    finally:
        store.close()


# ---------------------------------------------------------------- rows and rollups


def test_numbers_are_those_of_a_float4(store: SqliteStore) -> None:
    """Lateness and latency have the digits that PostgreSQL keeps of them, so that sums are the same."""
    batch = Spool().batch(checks=[("a", NOON, Outcome.HEALTHY, 0.1)])
    store.write(replace(batch, checks=replace(batch.checks, late_ms=np.array([0.3], np.float32))))
    rows = store.query("SELECT late_ms, latency_ms FROM health_checks").rows

    assert rows == [(float(np.float32(0.3)), float(np.float32(0.1)))]


def test_transition_overtaken_by_a_later_batch(store: SqliteStore) -> None:
    """The session remembers how far it has come, and never goes back."""
    spool = Spool()
    late = replace(spool.batch(samples=[("a", "m", NOON, 1.0)]), observed_to_us=to_us(NOON))
    early = replace(spool.batch(samples=[("a", "m", NOON, 1.0)]), observed_to_us=to_us(MIDNIGHT))
    store.write(late)
    store.write(early)
    store.close_session(SESSION)
    rows = store.query(
        "SELECT observed_to, ended_at IS NOT NULL AS ended FROM collector_sessions",
        types={"observed_to": datetime, "ended": bool},
    ).rows

    assert rows == [(NOON, True)]


def test_rows_of_unlisted_series_are_proved_missing_and_repaired(store: SqliteStore) -> None:
    """Views look series up in a list; one that somebody has emptied is a difference, and a rebuild lists them again."""
    store.write(Spool().batch(samples=[("a", "m", NOON, 1.0), ("b", "m", NOON, 2.0)]))
    tamper(store, "DELETE FROM agent_metrics_series")
    broken = verify(store, LATER)
    rebuild(store, Window(MIDNIGHT, LATER), LATER)

    assert {mismatch.tier for mismatch in broken.mismatches} == {Tier.H1, Tier.D1}
    assert verify(store, LATER).holds
    assert samples(store, "agent_metrics_1d") == [(MIDNIGHT, 1, 1, 1.0, 1.0), (MIDNIGHT, 2, 1, 2.0, 2.0)]


def test_last_of_two_at_one_time_is_the_greater(store: SqliteStore) -> None:
    """Of values, latencies and outcomes of one moment the greater one comes last, in every tier, before and after."""
    store.write(
        Spool().batch(
            samples=[("a", "m", NOON, 3.0), ("a", "m", NOON, 5.0), ("a", "m", NOON, 4.0)],
            checks=[("a", NOON, Outcome.ERROR, None), ("a", NOON, Outcome.HEALTHY, 7.0), ("a", NOON, Outcome(1), 6.0)],
        )
    )
    for _ in range(2):
        for tier in ROLLUPS:
            last = store.query(f"SELECT last FROM {Table.AGENT.relation(tier)}").rows  # noqa: S608  # own names
            health = store.query(f"SELECT latency_last, last_outcome FROM {Table.HEALTH.relation(tier)}").rows  # noqa: S608  # own names

            assert last == [(5.0,)]
            assert health == [(7.0, 6)]
        refresh_all(store, LATER)


def steps(path: Path, statement: str, **parameters: int) -> int:
    """Return how many hundreds of steps SQLite's machine takes for *statement*: its cost, whatever the machine does."""
    taken = 0

    def count() -> None:
        nonlocal taken
        taken += 1

    with closing(sqlite3.connect(path)) as connection:
        functions.register(connection)
        connection.set_progress_handler(count, 100)
        connection.execute(statement, parameters).fetchall()
        connection.set_progress_handler(None, 0)
    return taken


@pytest.mark.parametrize("tier", [Tier.M1, Tier.H1])
def test_a_backlog_does_not_slow_down_recent_questions(store: SqliteStore, path: Path, tier: Tier) -> None:
    """A condition on the bucket leaves out marked buckets before they are computed, of every series."""
    spool, names, noon = Spool(), [f"a{k}" for k in range(20)], to_us(NOON)
    statement = f"SELECT * FROM {Table.AGENT.relation(tier)} WHERE bucket >= :since"  # noqa: S608  # own names
    store.write(spool.batch(samples=[(name, "m", at, 1.0) for name in names for at in every(NOON, 60, 3)]))
    alone = steps(path, statement, since=noon)
    store.write(spool.batch(samples=[(name, "m", at, 1.0) for name in names for at in every(MIDNIGHT, 60, 600)]))
    behind, everything = steps(path, statement, since=noon), steps(path, statement, since=0)

    assert everything > 10 * behind
    # Looking through the marks themselves is what is left.
    assert behind < 6 * alone


@pytest.mark.parametrize("tier", ROLLUPS)
@pytest.mark.parametrize("refreshed", [False, True])
def test_one_series_costs_what_one_series_has(store: SqliteStore, path: Path, tier: Tier, refreshed: bool) -> None:
    """Conditions on entity and metric reach the rows below a view, marked or not."""
    names = [f"a{k}" for k in range(100)]
    store.write(Spool().batch(samples=[(name, "m", at, 1.0) for name in names for at in every(NOON, 30, 40)]))
    if refreshed:
        refresh_all(store, LATER)
    everything = f"SELECT * FROM {Table.AGENT.relation(tier)}"  # noqa: S608  # own names
    one = f"{everything} WHERE agent_id = :agent AND metric_id = 1"

    assert steps(path, everything) > 5 * steps(path, one, agent=7)


def test_partitions_are_virtual_and_hold_rows(store: SqliteStore) -> None:
    """A table is listed in the slices that have rows, with an estimate of their size; nothing has to be made ahead."""
    spool = Spool()
    for day in (0, 3):
        store.write(spool.batch(samples=[("a", "m", at, 1.0) for at in every(NOON + timedelta(days=day), 60, 10)]))
    refresh_all(store, LATER)
    raw, days = store.partitions(Table.AGENT, Tier.RAW), store.partitions(Table.AGENT, Tier.D1)

    assert store.ensure_partitions(Window(NOON, LATER)) == 0
    assert [part.name for part in raw] == ["agent_metrics_20260310", "agent_metrics_20260313"]
    assert [part.name for part in days] == ["agent_metrics_1d_mat_2026"]
    assert 300 < raw[0].size_bytes < 3000
    assert store.boundary(Tier.H1, NOON) == datetime(2026, 3, 1, tzinfo=UTC)


# ---------------------------------------------------------------- retention


def dropped_slowly(monkeypatch: pytest.MonkeyPatch, limit: int) -> Callable[[], None]:
    """Have deletes take ten rows each and fail after *limit* of them; return what lifts that."""
    monkeypatch.setattr(retention, "DELETE_ROWS", 10)
    delete, calls = retention.delete_below, 0

    def failing(*arguments: object) -> int:
        nonlocal calls
        calls += 1
        if calls > limit:
            raise TransientStorageError("the writer was not let go", sqlstate="55P03")
        return delete(*arguments)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(retention, "delete_below", failing)
    return lambda: monkeypatch.setattr(retention, "delete_below", delete)


@pytest.mark.parametrize("tier", [Tier.RAW, Tier.M1])
def test_drop_that_breaks_off_is_finished_by_the_next(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, tier: Tier
) -> None:
    """Rows go a few at a time; what is half deleted is out of sight, and out of every proof, until the rest goes."""
    spool = Spool()
    for day in range(2):
        moments = every(MIDNIGHT + timedelta(days=day), 60, 45)
        store.write(
            spool.batch(
                samples=[("a", "m", at, 1.0) for at in moments], checks=[("a", at, Outcome(0), 1.0) for at in moments]
            )
        )
    refresh_all(store, LATER)
    hours, tomorrow = samples(store, "agent_metrics_1h"), MIDNIGHT + timedelta(days=1)
    for each in (Tier.RAW, tier):
        store.close_below(Table.AGENT, each, tomorrow)
    if tier is Tier.M1:
        store.drop_below(Table.AGENT, Tier.RAW, tomorrow)
    lift = dropped_slowly(monkeypatch, 2)
    with pytest.raises(TransientStorageError, match="was not let go"):
        store.drop_below(Table.AGENT, tier, tomorrow)
    half = [part.window.start for part in store.partitions(Table.AGENT, tier)]
    relation = "agent_metrics" if tier is Tier.RAW else "agent_metrics_1m_mat"
    left = store.query(f"SELECT count(*) FROM {relation}").rows  # noqa: S608  # own names
    minutes = samples(store, "agent_metrics_1m")
    proof = verify(store, LATER)
    rebuild(store, Window(MIDNIGHT, LATER), LATER)
    lift()
    finished = store.drop_below(Table.AGENT, tier, tomorrow)

    assert half == [MIDNIGHT, tomorrow]
    assert left == [(70,)]
    assert min(row[0] for row in minutes) == (MIDNIGHT if tier is Tier.RAW else tomorrow)  # type: ignore[type-var]  # moments
    assert proof.holds
    assert [part.window.start for part in finished] == [MIDNIGHT]
    assert [part.window.start for part in store.partitions(Table.AGENT, tier)] == [tomorrow]
    assert samples(store, "agent_metrics_1h") == hours
    assert verify(store, LATER).holds


def test_drop_forgets_series_that_have_ended(store: SqliteStore) -> None:
    """Series without raw rows are looked up no more; one that comes back is."""
    spool, tomorrow = Spool(), MIDNIGHT + timedelta(days=1)
    store.write(spool.batch(samples=[("old", "m", NOON, 1.0), ("both", "m", NOON, 1.0)]))
    store.write(spool.batch(samples=[("both", "m", tomorrow, 1.0), ("new", "m", tomorrow, 1.0)]))
    refresh_all(store, LATER)
    store.close_below(Table.AGENT, Tier.RAW, tomorrow)
    store.drop_below(Table.AGENT, Tier.RAW, tomorrow)
    listed = store.query("SELECT agent_id FROM agent_metrics_series ORDER BY agent_id").rows
    store.write(spool.batch(samples=[("old", "m", tomorrow, 2.0)]))

    assert listed == [(2,), (3,)]
    assert samples(store, "agent_metrics_1h")[-3:] == [
        (tomorrow, 1, 1, 2.0, 2.0),
        (tomorrow, 2, 1, 1.0, 1.0),
        (tomorrow, 3, 1, 1.0, 1.0),
    ]
    assert verify(store, LATER).holds


def test_drop_gives_disk_space_back(store: SqliteStore, path: Path) -> None:
    """A file of which most is free shrinks to little more than what it holds; what a day frees stays for the next."""
    spool, tomorrow = Spool(), MIDNIGHT + timedelta(days=1)
    store.write(spool.batch(samples=[("a", "m", at, 1.0) for at in every(MIDNIGHT, 2, 20_000)]))
    store.write(spool.batch(samples=[("a", "m", tomorrow, 1.0)]))
    for tier in ROLLUPS:
        while store.refresh(Table.AGENT, tier, closed_before=LATER, limit=1000).buckets:
            pass
    before = store.query("SELECT page_count FROM pragma_page_count()").rows[0][0]
    store.close_below(Table.AGENT, Tier.RAW, tomorrow)
    store.drop_below(Table.AGENT, Tier.RAW, tomorrow)
    after, free = store.query(
        "SELECT page_count, freelist_count FROM pragma_page_count(), pragma_freelist_count()"
    ).rows[0]

    assert after < before / 2  # type: ignore[operator]  # counts
    assert 0 < free <= retention.FREE_SHARE * after  # type: ignore[operator]  # counts


def test_purge_takes_what_hangs_on_a_batch(store: SqliteStore) -> None:
    """Up to as many batches as may be are forgotten, the oldest first, with their day counts and refusals."""
    spool = Spool()
    for k in range(5):
        store.write(spool.batch(samples=[("a", "m", NOON, 1.0), ("a", "m", NOON, float("nan"))]))
        tamper(
            store, "UPDATE ingest_batches SET committed_at = :at WHERE seq = :n", at=NOON + timedelta(days=k), n=k + 1
        )
    purged = [store.purge_ledger(NOON + timedelta(days=3), limit=2) for _ in range(3)]
    left = [
        store.query(f"SELECT seq FROM {name} ORDER BY seq").rows  # noqa: S608  # own names
        for name in ("ingest_batches", "ingest_batch_days", "ingest_rejections")
    ]

    assert purged == [2, 1, 0]
    assert left == [[(4,), (5,)]] * 3


# ---------------------------------------------------------------- questions


def test_query_takes_and_gives_moments(store: SqliteStore) -> None:
    """Aware moments and UUIDs are bound as they are stored; named columns come back as what they are."""
    spool = Spool()
    store.write(spool.batch(samples=[("a", "m", NOON, 1.0), ("a", "m", NOON + timedelta(hours=1), 1.0)]))
    found = store.query(
        "SELECT ts, value > 0 AS up, NULL AS missing FROM agent_metrics"
        " WHERE ts >= :since AND EXISTS (SELECT 1 FROM ingest_batches WHERE spool_id = :spool)",
        {"since": NOON + timedelta(minutes=1), "spool": spool.spool_id},
        types={"ts": datetime, "up": bool, "missing": datetime, "elsewhere": bool},
    )

    assert found.columns == ("ts", "up", "missing")
    assert found.rows == [(NOON + timedelta(hours=1), True, None)]
    assert found.rows[0][1] is True
    with pytest.raises(StorageError, match=r"parameter since is 2026-03-10 12:00:00, expected an aware moment"):
        store.query("SELECT :since", {"since": NOON.replace(tzinfo=None)})


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM agents", "queries only read"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("SELECT :missing", "missing"),
        ("SELECT nonsense FROM nowhere", "no such table: nowhere"),
        ("COMMIT", "answers no rows"),
    ],
)
def test_query_that_cannot_be_answered_says_why(store: SqliteStore, statement: str, said: str) -> None:
    """What is no question is an error of storage, and leaves the store as it was."""
    with pytest.raises(StorageError, match=said):
        store.query(statement)

    assert store.query("SELECT count(*) FROM agents").rows == [(0,)]
    assert store.write(Spool().batch(samples=[("a", "m", NOON, 1.0)])).accepted == 1


def test_readers_see_one_moment_while_others_write(store: SqliteStore) -> None:
    """A reader beside a writer and a refresher finds every tier equal to raw, each time that it looks."""
    done = threading.Event()
    spool = Spool()

    def maintain() -> int:
        rounds = 0
        while not done.is_set():
            refresh_all(store, LATER)
            rounds += 1
        return rounds

    def read() -> int:
        looks = 0
        while not done.is_set():
            row = store.query(
                "SELECT (SELECT count(*) FROM agent_metrics), (SELECT sum(n) FROM agent_metrics_1m),"
                " (SELECT sum(n) FROM agent_metrics_1h), (SELECT sum(n) FROM agent_metrics_1d)"
            ).rows[0]
            assert len({each or 0 for each in row}) == 1, row
            looks += 1
        return looks

    with ThreadPoolExecutor(2) as pool:
        working = [pool.submit(maintain), pool.submit(read)]
        try:
            for k in range(150):
                at = NOON + timedelta(seconds=37 * (k % 40), microseconds=k)
                store.write(spool.batch(samples=[("a", "m", at, float(k))]))
        finally:
            done.set()
        counts = [each.result() for each in working]

    assert min(counts) > 0
    assert store.query("SELECT sum(n) FROM agent_metrics_1d").rows == [(150,)]
