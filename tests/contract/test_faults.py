"""
A database that cannot take a batch now: nothing of the batch is there, nothing else is lost, and later it is written once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.orm import Session

from rollups.policy import RetentionPolicy
from rollups.refresh import refresh_all
from rollups.retention import Verdict, apply
from rollups.verify import verify
from storage import deadlines
from storage.batch import Batch, WriteResult
from storage.database import DatabaseManager
from storage.deadlines import Deadline
from storage.errors import DuplicateName, OutcomeUnknown, PermanentStorageError, TransientStorageError, UnknownName
from storage.model import ROLLUPS, AgentSpec, Loss, Outcome, Table, Tier, Transition
from storage.models import Host
from storage.open import open_store
from storage.repositories import AgentRepository
from storage.service import PersistenceService
from storage.sqlite import SqliteStore
from storage.store import Capability, Store
from storage.transactions import writing
from storage.work_models import AgentCapability
from tests.batches import NOON, Spool, every
from tests.daemon.conditions import eventually
from tests.faults import Relay, administer, full, read_only, unprivileged
from tests.servers import Servers

MINUTE = timedelta(minutes=1)
LATER = NOON + timedelta(days=2)
RELATIONS = (
    "health_checks",
    "agent_metrics",
    "system_metrics",
    "status_events",
    "losses",
    "marks",
    "ingest_batches",
    "ingest_batch_days",
)
#: Short enough to wait for what is never given.
HASTY = Deadline(statement_ms=60_000, lock_ms=50)


def counts(store: Store) -> tuple[int, ...]:
    """Return the number of rows of everything that a batch writes to, in the order of ``RELATIONS``."""
    asked = ", ".join(f"(SELECT count(*) FROM {relation})" for relation in RELATIONS)  # noqa: S608  # own names
    return tuple(int(str(n)) for n in store.query(f"SELECT {asked}").rows[0])


def first_of(spool: Spool) -> Batch:
    """Return a batch of rows alone, which makes the names that ``all_of`` uses known."""
    return spool.batch(
        checks=[("a", NOON, Outcome.HEALTHY, 1.0)], samples=[("a", "m", NOON, 1.0)], system=[("h", "m", NOON, 1.0)]
    )


def all_of(spool: Spool, size: int = 200) -> Batch:
    """Return a batch with something for every relation, *size* rows of each kind in one hour."""
    moments = every(NOON + MINUTE, 3600 / size, size)
    return spool.batch(
        checks=[("a", at, Outcome.HEALTHY, 1.0) for at in moments],
        samples=[("a", "m", at, float(k)) for k, at in enumerate(moments)],
        system=[("h", "m", at, float(k)) for k, at in enumerate(moments)],
        transitions=[Transition(agent="a", due=NOON, old="unknown", new="healthy")],
        losses=[Loss(agent="a", from_due=NOON, to_due=NOON, n=1, reason="spool_full")],
    )


def assert_written_once(store: Store, batch: Batch) -> None:
    """Offer *batch* twice, as a writer does that has lost an answer: it is there once, and every rollup equals raw."""
    before = counts(store)
    first, second = store.write(batch), store.write(batch)
    after = counts(store)
    marked = {moment // 60_000_000 for table in Table for moment in batch.columns(table).ts_us.tolist()}
    refresh_all(store, LATER)

    assert (first.accepted, first.rejections, first.replayed) == (len(batch), 0, False)
    assert (second.accepted, second.replayed) == (0, True)
    added = dict(zip(RELATIONS, (new - old for new, old in zip(after, before, strict=True)), strict=True))
    assert added == {table.value: len(batch.columns(table)) for table in Table} | {
        "status_events": len(batch.transitions),
        "losses": len(batch.losses),
        "marks": 3 * len(marked),
        "ingest_batches": 1,
        "ingest_batch_days": 3,
    }
    assert verify(store, LATER).holds
    assert store.query("SELECT (SELECT sum(n) FROM agent_metrics_1d), (SELECT sum(n) FROM health_1h)").rows == [
        (after[1], after[0])
    ]


# ---------------------------------------------------------------- only reading


def test_read_only_database_keeps_the_batch_back(store: Store, database_url: str) -> None:
    """A database that only reads refuses for now and says what to do; writable again, it takes the batch once."""
    spool = Spool()
    store.write(first_of(spool))
    before, batch = counts(store), all_of(spool)
    with read_only(store, database_url) as reading:
        with pytest.raises(TransientStorageError) as caught:
            reading.write(batch)
        if store.engine_name != "sqlite":
            # A file's log has to be written before it can be read.
            assert counts(reading) == before
        with pytest.raises(TransientStorageError) as refused:
            refresh_minutes(reading)

    assert (caught.value.sqlstate, refused.value.sqlstate) == ("25006", "25006")
    words = "this user write the file" if store.engine_name == "sqlite" else "turn default_transaction_read_only off"
    assert words in str(caught.value)
    assert counts(store) == before
    assert_written_once(store, batch)


def refresh_minutes(store: Store) -> None:
    """Write by way of the driver."""
    store.refresh(Table.AGENT, Tier.M1, closed_before=LATER)


def register_agents(store: Store) -> None:
    """Write by way of the relational half."""
    AgentRepository(store.engine).sync([AgentSpec(name="registered", endpoint="http://127.0.0.1:1/")], "file", NOON)


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
@pytest.mark.parametrize("attempt", [refresh_minutes, register_agents])
def test_sessions_that_only_read_are_given_up(
    store: Store, database_url: str, attempt: Callable[[Store], None]
) -> None:
    """Of sessions that took the default of a database that only read, one refuses after that is over, and no other."""
    spool = Spool()
    store.write(first_of(spool))
    with read_only(store, database_url), store.engine.connect() as one, store.engine.connect() as other:
        defaults = [each.execute(text("SHOW default_transaction_read_only")).scalar() for each in (one, other)]
    with pytest.raises(TransientStorageError) as refused:
        attempt(store)
    attempt(store)

    assert defaults == ["on", "on"]
    assert refused.value.sqlstate == "25006"
    assert_written_once(store, all_of(spool))


def test_folder_that_may_not_be_entered_is_named(database_servers: Servers) -> None:
    """A file that is out of reach is transient, is not taken for another one, and is used again when it is back."""
    spool = Spool()
    with database_servers.database("sqlite") as url:
        folder = Path(url.removeprefix("sqlite:///")).parent
        store = open_store(url)
        fresh = open_store(url)
        try:
            store.write(first_of(spool))
            batch = all_of(spool)
            folder.chmod(0o600)
            with unprivileged():
                for each in (store, fresh):
                    with pytest.raises(TransientStorageError, match=r"cannot be reached: permission denied: .*folders"):
                        each.write(batch)
            folder.chmod(0o700)
            assert_written_once(store, batch)
        finally:
            folder.chmod(0o700)
            fresh.close()
            store.close()


# ---------------------------------------------------------------- no room


def test_full_disk_keeps_the_batch_back(store: Store, database_url: str, engine_name: str) -> None:
    """A batch that finds no room in the middle leaves nothing behind; with room again, it is written once."""
    spool = Spool()
    store.write(first_of(spool))
    before, batch = counts(store), all_of(spool, 1200)
    with full(store, database_url, engine_name):
        for _ in range(2):
            with pytest.raises(TransientStorageError, match=r"free space on the .*disk") as caught:
                store.write(batch)

    assert caught.value.sqlstate == "53100"
    assert counts(store) == before
    assert_written_once(store, batch)


# ---------------------------------------------------------------- cut connections


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
@pytest.mark.parametrize("place", ["ingest_batches", "marks", "collector_sessions"])
def test_session_ended_in_the_middle_of_a_write(store: Store, database_url: str, place: str) -> None:
    """A session that the server ends before, between or after the rows costs one try; the next one writes once."""
    spool = Spool()
    store.write(first_of(spool))
    before, batch = counts(store), all_of(spool)
    waiting = (
        "SELECT l.pid FROM pg_locks AS l JOIN pg_stat_activity AS s ON s.pid = l.pid"
        " WHERE NOT l.granted AND s.datname = current_database() AND s.application_name = 'fleetpulse'"
        " AND l.relation = to_regclass(:place)"
    )
    other = open_store(database_url)
    try:
        with other.engine.connect() as holder, ThreadPoolExecutor(1) as pool:
            holder.execute(text(f"LOCK TABLE {place} IN EXCLUSIVE MODE"))
            attempt = pool.submit(store.write, batch)
            pid = eventually(lambda: other.query(waiting, {"place": place}).rows, f"the write to wait for {place}")[0][
                0
            ]
            administer(database_url, sql.SQL("SELECT pg_terminate_backend({})").format(sql.Literal(pid)))
            with pytest.raises(TransientStorageError, match=f"writing batch {batch.name} failed"):
                attempt.result()
            holder.rollback()
    finally:
        other.close()

    assert counts(store) == before
    assert_written_once(store, batch)


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_lost_answer_to_a_commit_is_no_second_batch(store: Store, database_url: str) -> None:
    """A link that breaks while the server's word of the commit is on its way: the retry finds the batch and adds nothing."""
    spool = Spool()
    store.write(first_of(spool))
    before, batch = counts(store), all_of(spool)
    relay = Relay(database_url)
    try:
        remote = open_store(relay.url)
        try:
            remote.write(first_of(Spool()))
            relay.cut_at(b"COMMIT\0")
            with pytest.raises(TransientStorageError):
                remote.write(batch)
            committed = counts(store)
            again = remote.write(batch)
        finally:
            remote.close()
    finally:
        relay.close()
    refresh_all(store, LATER)

    assert relay.has_cut
    assert again.replayed
    assert [new - old for new, old in zip(committed, before, strict=True)] == [201, 201, 201, 1, 1, 183, 2, 6]
    assert counts(store)[:5] == committed[:5]
    assert verify(store, LATER).holds


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_lost_answer_to_a_commit_is_told_apart(store: Store, database_url: str) -> None:
    """A link that breaks before a commit has done nothing; in the middle of one it may have: whoever asks is told which."""
    relay = Relay(database_url)
    try:
        with DatabaseManager(relay.url) as remote, PersistenceService(remote) as service:
            service.register_agent("a")
            service.update_agent_metrics("a", {"n": 0})
            relay.cut_at(b"BEGIN\0")
            with pytest.raises(TransientStorageError) as before:
                service.create_workflow("w")
            nothing = store.query("SELECT count(*) FROM workflows").rows
            relay.cut_at(b"COMMIT\0")
            with pytest.raises(OutcomeUnknown, match="not known whether it was done, look before you repeat") as lost:
                service.create_workflow("w")
            with pytest.raises(DuplicateName):
                service.create_workflow("w")
            relay.cut_at(b"COMMIT\0")
            with pytest.raises(OutcomeUnknown), remote.session() as session:
                session.add(Host(name="h", created_at=NOON))
            relay.cut_at(b"COMMIT\0")
            written = service.update_agent_metrics("a", {"n": 1, "bad": math.nan})
    finally:
        relay.close()

    assert type(before.value) is TransientStorageError
    assert nothing == [(0,)]
    assert lost.value.sqlstate is None
    assert store.query("SELECT name FROM hosts").rows == [("h",)]
    assert written == WriteResult(accepted=1, rejected={"not_finite": 1})
    assert store.query("SELECT value FROM agent_metrics ORDER BY value").rows == [(0.0,), (1.0,)]


# ---------------------------------------------------------------- others at work


def test_row_that_was_taken_away_meanwhile_is_looked_for_again(store: Store) -> None:
    """Whoever refers to a row that is gone does it again and says what is missing; what goes on failing comes out as it is."""
    repository, tries = AgentRepository(store.engine), [0, 0]

    def refer(session: Session) -> None:
        session.add(AgentCapability(agent_id=404, name="read", details={}, added_at=NOON))
        session.flush()

    def look(session: Session) -> None:
        tries[0] += 1
        if tries[0] == 1:
            refer(session)
        raise UnknownName("agent", "gone", "register it first")

    def insist(session: Session) -> None:
        tries[1] += 1
        refer(session)

    with pytest.raises(UnknownName):
        repository._write("looking", look)
    with pytest.raises(PermanentStorageError) as refused:
        repository._write("insisting", insist)

    assert refused.value.sqlstate == "23503"
    assert tries == [2, 5]


def test_two_refreshers_share_a_backlog(store: Store, database_url: str) -> None:
    """Two that refresh the same tables at once, each skipping what the other holds, compute all of it and lose nothing."""
    spool = Spool()
    batch = all_of(spool)
    store.write(batch)

    def refresher() -> int:
        mine, buckets = open_store(database_url), 0
        try:
            while any(mine.dirty(table, tier, LATER) for table in Table for tier in ROLLUPS):
                for table in Table:
                    for tier in ROLLUPS:
                        buckets += mine.refresh(table, tier, closed_before=LATER, limit=7).buckets
        finally:
            mine.close()
        return buckets

    with ThreadPoolExecutor(2) as pool:
        done = sum(each.result() for each in [pool.submit(refresher) for _ in range(2)])

    # 60 minutes, 2 hours and a day of each table at least; what is marked while its bucket is computed comes again.
    assert done >= 3 * (60 + 2 + 1)
    assert store.query("SELECT count(*) FROM marks").rows == [(0,)]
    assert verify(store, LATER).holds
    assert store.query("SELECT n FROM agent_metrics_1d").rows == [(200,)]


def test_file_that_another_writes_makes_retention_busy(
    database_servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is one writer at a time, retention that does not get its turn says so and drops with its next run."""
    monkeypatch.setattr(deadlines, "DDL", HASTY)
    policy = RetentionPolicy(raw=timedelta(days=1), m1=timedelta(days=2), ledger=timedelta(days=9))
    now = NOON + timedelta(days=3)
    with database_servers.database("sqlite") as url:
        store, other = SqliteStore(url), SqliteStore(url)
        try:
            store.write(first_of(Spool()))
            refresh_all(store, now)
            with writing(other.engine).connect() as holder:
                holder.execute(text("UPDATE agents SET state = state"))
                first = apply(store, policy, now)
                holder.rollback()
            held = store.query("SELECT count(*) FROM agent_metrics").rows
            second = apply(store, policy, now)
            left = store.query("SELECT (SELECT count(*) FROM agent_metrics), (SELECT n FROM agent_metrics_1d)").rows
        finally:
            other.close()
            store.close()

    assert {each.verdict for each in first.steps} == {Verdict.BUSY}
    assert "another process or thread writes: try again" in first.steps[0].message
    assert "purging the ledger failed" in first.unpurged
    assert not first.ok
    assert held == [(1,)]
    assert second.ok
    assert left == [(0, 1)]
