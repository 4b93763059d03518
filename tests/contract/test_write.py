"""
What ``Store.write`` promises: once, whole, and every row accounted for.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from rollups.verify import verify
from storage.errors import BatchError, CollectorRunning, TransientStorageError
from storage.model import Kind, Loss, Outcome, Table, Tier, Transition, Window
from storage.open import open_store
from storage.pg.store import PgStore
from storage.store import Capability, Store
from tests.batches import NOON, Spool, every
from tests.faults import reconnect
from tests.tampering import refuse

MINUTE = timedelta(minutes=1)


def count(store: Store, relation: str) -> int:
    """Return the number of rows of *relation*."""
    found = store.query(f"SELECT count(*) FROM {relation}").rows[0][0]  # noqa: S608  # the test's own names
    assert isinstance(found, int)
    return found


def test_write_stores_every_column(store: Store) -> None:
    """A check comes back as it was written, through ids, NULLs included."""
    spool = Spool()
    batch = spool.batch(
        checks=[("a", NOON, Outcome.HEALTHY, 12.5), ("b", NOON + MINUTE, Outcome.TIMEOUT, None)], reason="why"
    )
    result = store.write(batch)
    rows = store.query(
        "SELECT c.ts, a.name, c.outcome, c.late_ms, c.latency_ms, c.http_status, r.reason, s.name"
        " FROM health_checks AS c JOIN agents AS a ON a.id = c.agent_id JOIN reasons AS r ON r.id = c.reason_id"
        " JOIN collector_sessions AS s ON s.id = c.session_id ORDER BY c.ts",
        types={"ts": datetime},
    ).rows

    assert result.accepted == 2
    assert rows == [
        (NOON, "a", 0, 1.0, 12.5, 200, "why", "test"),
        (NOON + MINUTE, "b", 4, 1.0, None, 0, "why", "test"),
    ]


def test_write_every_null_pattern_keeps_its_row(store: Store) -> None:
    """Each combination of NULL lateness, latency and reason is stored in the row that it belongs to."""
    spool = Spool()
    batch = spool.batch(checks=[("a", NOON + MINUTE * k, Outcome.HEALTHY, float(k)) for k in range(8)], reason="r")
    nan = np.float32("nan")
    checks = replace(
        batch.checks,
        late_ms=np.array([k if k & 1 else nan for k in range(8)], np.float32),
        latency_ms=np.array([k if k & 2 else nan for k in range(8)], np.float32),
        reason=np.array([0 if k & 4 else -1 for k in range(8)], np.int32),
    )
    store.write(replace(batch, checks=checks))
    rows = store.query("SELECT late_ms, latency_ms, reason_id IS NOT NULL FROM health_checks ORDER BY ts").rows

    assert rows == [(k if k & 1 else None, k if k & 2 else None, bool(k & 4)) for k in range(8)]


def test_write_replay_writes_nothing(store: Store) -> None:
    """A batch that was committed is recognised by spool and sequence number, and adds no row anywhere."""
    spool = Spool()
    batch = spool.batch(
        checks=[("a", NOON, Outcome.HEALTHY, 1.0)],
        samples=[("a", "m", NOON, 1.0)],
        system=[("h", "m", NOON, 1.0)],
        transitions=[Transition(agent="a", due=NOON, old="unknown", new="healthy")],
        losses=[Loss(agent="a", from_due=NOON, to_due=NOON, n=1, reason="spool_full")],
    )
    first, second = store.write(batch), store.write(batch)
    relations = ("health_checks", "agent_metrics", "system_metrics", "status_events", "losses", "ingest_batches")

    assert (first.accepted, first.replayed) == (3, False)
    assert (second.accepted, second.replayed) == (0, True)
    assert [count(store, each) for each in relations] == [1, 1, 1, 1, 1, 1]
    assert count(store, "marks") == 3


def test_write_makes_missing_partition(store: Store) -> None:
    """A day that nobody prepared gets its partition; nothing is lost or kept back."""
    spool = Spool()
    far = NOON - timedelta(days=3)
    result = store.write(spool.batch(samples=[("a", "m", far, 1.0)]))

    assert result.accepted == 1
    assert far.date() in {part.window.start.date() for part in store.partitions(Table.AGENT, Tier.RAW)}


def test_write_refused_row_goes_to_quarantine_alone(store: Store) -> None:
    """Of a batch with one row that the database refuses, that row is quarantined and the others are stored."""
    spool = Spool()
    moments = every(NOON, 1, 101)
    store.ensure_partitions(Window(NOON, NOON + MINUTE))
    state = refuse(store, Table.AGENT, "value", "= 66")
    result = store.write(spool.batch(samples=[("a", "m", at, float(k)) for k, at in enumerate(moments)]))
    quarantined = store.query("SELECT payload, sqlstate FROM quarantine").rows
    # A document, or its text where the engine has no type for one.
    words: list[Any] = [json.loads(row[0]) if isinstance(row[0], str) else row[0] for row in quarantined]

    assert (result.accepted, dict(result.rejected)) == (100, {f"sqlstate_{state}": 1})
    assert count(store, "agent_metrics") == 100
    assert [(each["value"], each["agent"], each["metric"]) for each in words] == [("66.0", "a", "m")]
    assert [row[1] for row in quarantined] == [state]
    assert [day.ledger for day in store.verify_ledger()] == [100]
    assert store.query("SELECT reason, n FROM ingest_rejections").rows == [(f"sqlstate_{state}", 1)]


def test_write_refused_check_is_a_loss(store: Store) -> None:
    """A check that the database refuses leaves a loss of its slot behind."""
    spool = Spool()
    store.ensure_partitions(Window(NOON, NOON + MINUTE))
    refuse(store, Table.HEALTH, "latency_ms", ">= 100")
    store.write(spool.batch(checks=[("a", NOON, Outcome.HEALTHY, 1.0), ("b", NOON, Outcome.HEALTHY, 500.0)]))
    losses = store.query("SELECT a.name, l.n, l.reason FROM losses AS l JOIN agents AS a ON a.id = l.agent_id").rows

    assert losses == [("b", 1, "quarantined")]


def test_write_below_horizon_is_counted(store: Store) -> None:
    """Rows older than the horizon are refused with a reason, their slots recorded as lost; newer ones stay."""
    spool = Spool()
    store.close_below(Table.HEALTH, Tier.RAW, NOON)
    store.close_below(Table.AGENT, Tier.RAW, NOON)
    old = NOON - timedelta(hours=1)
    result = store.write(
        spool.batch(
            checks=[("a", old, Outcome.HEALTHY, 1.0), ("a", NOON, Outcome.HEALTHY, 1.0)],
            samples=[("a", "m", old, 1.0)],
        )
    )

    assert (result.accepted, dict(result.rejected)) == (1, {"below_horizon": 2})
    assert store.query("SELECT n, reason FROM losses").rows == [(1, "below_horizon")]
    assert verify(store, NOON + timedelta(days=1)).holds


def test_write_refuses_what_would_spoil_a_sum(store: Store) -> None:
    """Infinite, missing and huge values are counted by reason; a value next to zero is stored as zero."""
    values = [1.0, float("nan"), float("inf"), float("-inf"), 1e308, -1e291, 1e290, 5e-324]
    result = store.write(
        Spool().batch(
            samples=[("a", "m", NOON + timedelta(seconds=k), value) for k, value in enumerate(values)],
            checks=[("a", NOON, Outcome.HEALTHY, float("inf"))],
        )
    )

    assert (result.accepted, dict(result.rejected)) == (3, {"not_finite": 4, "out_of_range": 2})
    assert store.query("SELECT value FROM agent_metrics ORDER BY ts").rows == [(1.0,), (1e290,), (0.0,)]
    assert store.query("SELECT n, min, max, avg FROM agent_metrics_1d").rows == [(3, 0.0, 1e290, 1e290 / 3)]
    assert store.query("SELECT reason, n FROM losses").rows == [("not_finite", 1)]


def test_write_dated_ahead_is_counted(store: Store) -> None:
    """Rows dated more than a day ahead of the clock are refused with a reason, their slots lost; a little is nothing."""
    spool = Spool()
    soon, far = datetime.now(UTC) + timedelta(minutes=5), datetime.now(UTC) + timedelta(days=2)
    ahead = store.write(
        spool.batch(
            checks=[("a", far, Outcome.HEALTHY, 1.0)], samples=[("a", "m", far, 1.0)], system=[("h", "m", far, 1.0)]
        )
    )
    near = store.write(spool.batch(samples=[("a", "m", soon, 1.0)]))

    assert (ahead.accepted, dict(ahead.rejected)) == (0, {"too_far_ahead": 3})
    assert (near.accepted, near.rejections) == (1, 0)
    assert store.query("SELECT n, reason FROM losses").rows == [(1, "too_far_ahead")]
    assert store.query("SELECT tbl, reason, n FROM ingest_rejections ORDER BY tbl").rows == [
        (1, "too_far_ahead", 1),
        (2, "too_far_ahead", 1),
        (3, "too_far_ahead", 1),
    ]


def test_write_status_follows_due_time(store: Store) -> None:
    """Of two changes of one spool the later batch wins, whichever is written first."""
    spool = Spool()
    first = spool.batch(transitions=[Transition(agent="a", due=NOON, old="unknown", new="healthy")])
    second = spool.batch(transitions=[Transition(agent="a", due=NOON + MINUTE, old="healthy", new="timeout")])
    store.write(second)
    store.write(first)

    assert store.query("SELECT status, status_due FROM agents", types={"status_due": datetime}).rows == [
        ("timeout", NOON + MINUTE)
    ]
    assert count(store, "status_events") == 2


def test_write_status_of_another_spool_needs_later_due_time(store: Store) -> None:
    """A change out of an old spool does not override what a newer one has found since."""
    old, new = Spool(), Spool()
    store.write(new.batch(transitions=[Transition(agent="a", due=NOON + MINUTE, old="unknown", new="healthy")]))
    store.write(old.batch(transitions=[Transition(agent="a", due=NOON, old="unknown", new="error")]))

    assert store.query("SELECT status FROM agents").rows == [("healthy",)]


def test_write_same_metric_of_two_kinds_is_two_metrics(store: Store) -> None:
    """Name, labels and kind are a metric's identity."""
    spool = Spool()
    store.write(spool.batch(samples=[("a", "m", NOON, 1.0)]))
    store.write(spool.batch(samples=[("a", "m", NOON, 1.0)], kind=Kind.COUNTER))
    store.write(spool.batch(samples=[("b", "m", NOON, 1.0)]))

    assert store.query("SELECT name, kind FROM metrics ORDER BY kind").rows == [("m", "counter"), ("m", "gauge")]


def test_write_batch_over_two_days_is_refused(store: Store) -> None:
    """A batch that spans midnight is a bug of the caller and is named as one."""
    spool = Spool()
    batch = spool.batch(samples=[("a", "m", NOON, 1.0), ("a", "m", NOON + timedelta(days=1), 1.0)])

    with pytest.raises(BatchError, match="spans several UTC days: found 2026-03-10, 2026-03-11, expected one"):
        store.write(batch)


def test_write_without_a_server_is_transient(store: Store) -> None:
    """An address where nothing listens raises what the writer retries, and names the address without password."""
    gone = open_store("postgresql://someone:hush@127.0.0.1:9/nothing")
    try:
        with pytest.raises(TransientStorageError, match=r"127\.0\.0\.1:9") as caught:
            gone.write(Spool().batch(samples=[("a", "m", NOON, 1.0)]))
    finally:
        gone.close()

    assert "hush" not in str(caught.value)


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_write_survives_a_cut_connection(store: Store) -> None:
    """A connection that the server ended costs one transient error; the retry writes the batch once."""
    spool = Spool()
    store.write(spool.batch(samples=[("a", "m", NOON, 1.0)]))
    store.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    batch = spool.batch(samples=[("a", "m", NOON + MINUTE, 2.0)])
    with pytest.raises(TransientStorageError):
        store.write(batch)
    result = store.write(batch)

    assert result.accepted == 1
    assert count(store, "agent_metrics") == 2


BAD_TEXTS = [("nul\0byte", "a NUL byte"), ("half\ud800pair", "half a surrogate pair"), ("long" * 1000, "4000 bytes")]


@pytest.mark.parametrize(("name", "found"), BAD_TEXTS)
def test_write_refuses_agents_that_no_database_takes(store: Store, name: str, found: str) -> None:
    """A name that could never be stored is the batch's fault, told at once instead of being tried for ever."""
    with pytest.raises(BatchError, match=f"has {found}, expected text of at most 2000 bytes"):
        store.write(Spool().batch(samples=[(name, "m", NOON, 1.0)]))


@pytest.mark.parametrize(("name", "found"), BAD_TEXTS)
def test_write_metric_that_no_database_takes_costs_its_own_rows(store: Store, name: str, found: str) -> None:
    """One agent's nonsense in the name of a metric is counted; every other row of the batch is stored."""
    batch = Spool().batch(
        samples=[("good", "m", NOON, 1.0), ("bad", name, NOON, 1.0), ("bad", "m", NOON, 2.0)],
        checks=[("good", NOON, Outcome.HEALTHY, 1.0)],
    )
    result = store.write(batch)

    assert (result.accepted, dict(result.rejected)) == (3, {"bad_text": 1}), found
    assert store.query("SELECT value FROM agent_metrics ORDER BY value").rows == [(1.0,), (2.0,)]


@pytest.mark.parametrize(("text", "found"), BAD_TEXTS)
def test_write_words_for_people_are_made_fit(store: Store, text: str, found: str) -> None:
    """Reasons, units and descriptions identify nothing: what cannot be stored in them is replaced or cut."""
    batch = Spool().batch(
        samples=[("a", "m", NOON, 1.0)],
        checks=[("a", NOON, Outcome.ERROR, None)],
        transitions=[Transition(agent="a", due=NOON, old="unknown", new="error", reason=text)],
        reason=text,
    )
    odd = replace(batch, metrics=(replace(batch.metrics[0], unit=text, description=text),))
    result = store.write(odd)

    assert (result.accepted, result.rejections) == (2, 0), found
    assert store.query("SELECT length(reason) <= 2000 FROM reasons").rows == [(True,)]


def test_write_refuses_years_that_are_not_stored(store: Store) -> None:
    """A row dated by a broken clock beyond the years that the format knows is refused, not a crash."""
    batch = Spool().batch(samples=[("a", "m", NOON, 1.0)])
    far = replace(batch.agent_samples, ts_us=np.array([10**18], np.int64))

    with pytest.raises(BatchError, match="has rows dated outside 1970 to 2199"):
        store.write(replace(batch, agent_samples=far))


def test_reconnecting_uses_up_no_ids(store: Store, database_url: str) -> None:
    """A connection that comes and goes asks for known names; sequences stay where they are."""
    spool = Spool()
    for _ in range(3):
        again = open_store(database_url)
        try:
            again.write(spool.batch(samples=[("a", "m", NOON, 1.0)], system=[("h", "m", NOON, 1.0)], reason="r"))
        finally:
            again.close()
    store.write(spool.batch(samples=[("b", "m2", NOON, 1.0)]))

    assert store.query("SELECT name, id FROM agents ORDER BY id").rows == [("a", 1), ("b", 2)]
    assert store.query("SELECT max(id) FROM metrics").rows == [(2,)]


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_database_defaults_do_not_change_what_statements_mean(store: Store, database_url: str) -> None:
    """Defaults of the database, of isolation, dates, strings, encoding and time zone, are overruled per connection."""
    name = store.query("SELECT current_database()").rows[0][0]
    for setting in (
        "default_transaction_isolation = 'serializable'",
        "DateStyle = 'German'",
        "TimeZone = 'America/St_Johns'",
        "standard_conforming_strings = off",
        "client_encoding = 'LATIN1'",
        "IntervalStyle = 'sql_standard'",
    ):
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f'ALTER DATABASE "{name}" SET {setting}'))
    other = open_store(database_url)
    try:
        other.write(Spool().batch(samples=[("エージェント", r"back\slash", NOON, 1.0)]))
        refreshed = other.refresh(Table.AGENT, Tier.M1, closed_before=NOON + timedelta(days=1))
        rows = other.query(
            "SELECT a.name, r.bucket FROM agent_metrics_1m AS r JOIN agents AS a ON a.id = r.agent_id"
        ).rows
        isolation = other.query("SHOW transaction_isolation").rows
    finally:
        other.close()

    assert refreshed.buckets == 1
    assert rows == [("エージェント", NOON)]
    assert isolation == [("read committed",)]


def test_abandoned_batches_fill_the_holes(store: Store) -> None:
    """Dropped sequence numbers are in the ledger with their reason; committed ones keep their entry."""
    spool = Spool()
    store.write(spool.batch(samples=[("a", "m", NOON, 1.0)]))
    store.abandon(range(1, 4), str(spool.spool_id), "spool_full")
    rows = store.query("SELECT seq, status, reason FROM ingest_batches ORDER BY seq").rows

    assert rows == [(1, "committed", ""), (2, "dropped", "spool_full"), (3, "dropped", "spool_full")]


def claimed_in_time(store: Store) -> None:
    """Claim the database for *store*; a server takes a moment to notice that a session has ended."""
    deadline = time.monotonic() + 10
    while True:
        try:
            store.claim_collector("next")
            return
        except CollectorRunning:
            assert time.monotonic() < deadline


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_second_collector_is_refused(store: Store, database_url: str) -> None:
    """One database has one collector; the second is told who holds it, and gets it once the first has gone."""
    other = open_store(database_url)
    try:
        store.claim_collector("one")
        with pytest.raises(CollectorRunning, match=r"database is taken: .* before collector two starts"):
            other.claim_collector("two")
        store.close()
        claimed_in_time(other)
    finally:
        other.close()


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_claim_takes_over_from_its_own_lost_connection(store: Store) -> None:
    """A store whose connection was cut without the server's knowledge ends that session and has the lock again."""
    assert isinstance(store, PgStore)
    store.claim_collector("one")
    lost = store._writer
    store._writer = None  # the connection lives on, as one does behind a link that was cut
    try:
        with pytest.raises(CollectorRunning):
            store.claim_collector("one")
        claimed_in_time(store)
    finally:
        assert lost is not None
        lost.close()


def test_identity_is_that_of_the_database(store: Store, database_url: str) -> None:
    """The identity is the same over connections and stores, and names a part of its own for what may change."""
    first = store.server_identity()
    reconnect(store)
    other = open_store(database_url)
    try:
        second = other.server_identity()
    finally:
        other.close()

    assert store.server_identity() == second == first
    # Cluster, timeline and database; of a file what was minted with it, and its place on the disk.
    assert first.count("/") == (1 if store.engine_name == "sqlite" else 2)
