"""
Writing a batch: one transaction, once.

Order inside the transaction: the ledger row first (no row: a replay, nothing else is written), then the gate that a
moving horizon waits for, then rows, marks, day counts, transitions and losses. Whatever fails takes all of it back.
What comes before the rows goes to the server at once, and so does what comes after them: a batch waits for it three times.

A row that the database refuses (SQLSTATE class 22 or 23) is found by bisection in a second attempt, with savepoints;
the first attempt has none, because it nearly always succeeds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import psycopg
from psycopg import errors

from storage.admission import Resolved, Tally, admitted, in_words, losses_of, minutes_us, stored
from storage.batch import Batch, Checks, Samples, WriteResult, select, unstorable_metrics, with_clean_words
from storage.layout import TABLE_CODE, TIER_CODE
from storage.model import MAX_DATED_AHEAD, Table, Tier, Window, from_us
from storage.pg.ids import Ids
from storage.pg.layout import GATE_LOCK
from storage.pg.sinks import Sink
from storage.sqlstate import is_permanent


def write(connection: psycopg.Connection, ids: Ids, batch: Batch, sink: Sink) -> WriteResult:
    """Write *batch* into *sink* as ``Store.write`` promises; driver errors come out as they are."""
    batch.validate()
    batch = with_clean_words(batch)
    unstorable = unstorable_metrics(batch)
    resolved = Resolved(
        agents=ids.agents(connection, batch),
        hosts=ids.hosts(connection, batch),
        metrics=ids.metrics(connection, batch, unstorable),
        unstorable=unstorable,
        reasons=ids.reasons(connection, batch),
        session=ids.session(connection, batch.session),
    )
    attempt = _Attempt(connection=connection, ids=ids, batch=batch, resolved=resolved, sink=sink)
    try:
        return attempt.run(_put)
    except errors.UndefinedTable:
        # The day's partition is missing: a late batch, or the job that makes them ahead did not run.
        for table in Table:
            if len(batch.columns(table)) and batch.day is not None:
                sink.make_room(connection, table, batch.day)
    except psycopg.Error as exc:
        if not is_permanent(exc.sqlstate):
            raise
    return attempt.run(_put_bisecting)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """One batch on its way into one database."""

    connection: psycopg.Connection
    ids: Ids
    batch: Batch
    resolved: Resolved
    sink: Sink

    def run(self, put: _Put) -> WriteResult:
        """Write everything in one transaction, rows by *put*."""
        tally = Tally()
        connection, batch = self.connection, self.batch
        tables = [table for table in Table if len(batch.columns(table))]
        with _taken_back(connection):
            with connection.pipeline():
                connection.execute("BEGIN")
                ledger = connection.execute(
                    "INSERT INTO ingest_batches (spool_id, seq, status, n_rows) VALUES (%s, %s, 'committed', %s)"
                    " ON CONFLICT (spool_id, seq) DO NOTHING",
                    (batch.spool_id, batch.seq, len(batch)),
                )
                horizons = _enter_gates(connection, tables)
            if ledger.rowcount == 0:
                connection.execute("ROLLBACK")
                return WriteResult(replayed=True)
            allowed = {code: Window(closed, max(closed, now + MAX_DATED_AHEAD)) for code, closed, now in horizons}
            written: dict[Table, Checks | Samples] = {}
            for table in tables:
                columns = admitted(batch, table, allowed[TABLE_CODE[table]], self.resolved.unstorable, tally)
                if len(columns):
                    tally.accepted[table] = put(self, table, columns, tally)
                    written[table] = columns
            with connection.pipeline():
                for table, columns in written.items():
                    _mark(connection, table, columns)
                _record(connection, self.ids, batch, tally)
                connection.execute("COMMIT")
        return tally.result()


@contextmanager
def _taken_back(connection: psycopg.Connection) -> Iterator[None]:
    """Take back, after an error, the transaction whose BEGIN and COMMIT are sent with the statements inside."""
    try:
        yield
    except BaseException:
        # Where that is impossible, the server does it when it finds the connection gone.
        with suppress(psycopg.Error):
            connection.rollback()
        raise


_Put = Callable[[_Attempt, Table, Checks | Samples, Tally], int]


def _enter_gates(connection: psycopg.Connection, tables: Sequence[Table]) -> psycopg.Cursor:
    """
    Take the gates of *tables* until the transaction ends; return table, horizon and the server's time of raw tables.

    The horizons are read by a statement of their own, after the lock: its snapshot sees whatever the last holder of
    the exclusive lock committed.
    """
    for table in tables:
        connection.execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", (GATE_LOCK, TABLE_CODE[table]))
    return connection.execute(
        "SELECT tbl, closed_before, clock_timestamp() FROM horizons WHERE tier = %s", (TIER_CODE[Tier.RAW],)
    )


def _put(attempt: _Attempt, table: Table, columns: Checks | Samples, tally: Tally) -> int:
    day = from_us(int(columns.ts_us[0])).date()
    return attempt.sink.put(attempt.connection, table, day, stored(table, columns, attempt.resolved))


def _put_bisecting(attempt: _Attempt, table: Table, columns: Checks | Samples, tally: Tally) -> int:
    """Write what the database takes; put the rest, row by row, into quarantine."""
    try:
        with attempt.connection.transaction():
            return _put(attempt, table, columns, tally)
    except psycopg.Error as exc:
        if not is_permanent(exc.sqlstate):
            raise
        if len(columns) == 1:
            _quarantine(attempt, table, columns, exc, tally)
            return 0
    half = len(columns) // 2
    every = np.arange(len(columns))
    return sum(_put_bisecting(attempt, table, select(columns, part), tally) for part in (every[:half], every[half:]))


def _quarantine(attempt: _Attempt, table: Table, columns: Checks | Samples, exc: psycopg.Error, tally: Tally) -> None:
    batch = attempt.batch
    tally.rejected[table, f"sqlstate_{exc.sqlstate}"] += 1
    if isinstance(columns, Checks):
        tally.losses.extend(losses_of(batch, columns, np.ones(1, np.bool_), "quarantined"))
    attempt.connection.execute(
        "INSERT INTO quarantine (spool_id, seq, tbl, payload, sqlstate, message) VALUES (%s, %s, %s, %s, %s, %s)",
        (
            batch.spool_id,
            batch.seq,
            TABLE_CODE[table],
            json.dumps(in_words(batch, table, columns, 0)),
            exc.sqlstate,
            exc.diag.message_primary or str(exc),
        ),
    )


def _mark(connection: psycopg.Connection, table: Table, columns: Checks | Samples) -> None:
    """Append a mark for every minute that got rows; what was quarantined marks one too many, which harms nothing."""
    connection.execute(
        "INSERT INTO marks (tbl, tier, bucket) SELECT %s, %s, to_timestamp(second)"
        " FROM unnest(%s::bigint[]) AS second ORDER BY second",
        (TABLE_CODE[table], TIER_CODE[Tier.M1], (minutes_us(columns) // 1_000_000).tolist()),
    )


def _record(connection: psycopg.Connection, ids: Ids, batch: Batch, tally: Tally) -> None:
    """Write what goes with the rows: day counts, refusals, losses, transitions, how far the collector has come."""
    day = batch.day
    for table, n in tally.accepted.items():
        connection.execute(
            "INSERT INTO ingest_batch_days (spool_id, seq, tbl, utc_day, n) VALUES (%s, %s, %s, %s, %s)",
            (batch.spool_id, batch.seq, TABLE_CODE[table], day, n),
        )
    for (table, reason), n in sorted(tally.rejected.items()):
        connection.execute(
            "INSERT INTO ingest_rejections (spool_id, seq, tbl, reason, n) VALUES (%s, %s, %s, %s, %s)",
            (batch.spool_id, batch.seq, TABLE_CODE[table], reason, n),
        )
    for loss in (*batch.losses, *tally.losses):
        connection.execute(
            "INSERT INTO losses (agent_id, from_due, to_due, n, reason, spool_id, seq, recorded_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, now())",
            (ids.agent(loss.agent), loss.from_due, loss.to_due, loss.n, loss.reason, batch.spool_id, batch.seq),
        )
    # In one order for all writers: two that update the same agents in opposite orders would wait for each other.
    for change in sorted(batch.transitions, key=lambda each: each.agent):
        agent = ids.agent(change.agent)
        connection.execute(
            "INSERT INTO status_events (agent_id, ts, from_status, to_status, reason, spool_id, seq)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (agent, change.due, change.old, change.new, change.reason, batch.spool_id, batch.seq),
        )
        # Old batches drain behind live ones: within one spool the later batch wins, whatever the wall clock did;
        # between spools the later due time.
        connection.execute(
            "UPDATE agents SET status = %s, status_due = %s, status_spool = %s, status_seq = %s, status_reason = %s"
            " WHERE id = %s AND CASE WHEN status_spool = %s THEN status_seq <= %s"
            " ELSE status_due IS NULL OR status_due < %s END",
            (
                change.new,
                change.due,
                batch.spool_id,
                batch.seq,
                change.reason,
                agent,
                batch.spool_id,
                batch.seq,
                change.due,
            ),
        )
    connection.execute(
        "UPDATE collector_sessions SET last_seen_at = CASE WHEN %s THEN now() ELSE last_seen_at END,"
        " observed_to = greatest(observed_to, %s) WHERE uuid = %s",
        (
            ids.is_live(batch.session),
            from_us(batch.observed_to_us) if batch.observed_to_us else None,
            batch.session.uuid,
        ),
    )


def abandon(connection: psycopg.Connection, seqs: range, spool_id: str, reason: str) -> None:
    """Record that the batches *seqs* of a spool were dropped and will never come; committed ones stay as they are."""
    connection.execute(
        "INSERT INTO ingest_batches (spool_id, seq, status, n_rows, reason)"
        " SELECT %s, seq, 'dropped', 0, %s FROM generate_series(%s::bigint, %s::bigint) AS seq"
        " ON CONFLICT (spool_id, seq) DO NOTHING",
        (spool_id, reason, seqs.start, seqs.stop - 1),
    )
