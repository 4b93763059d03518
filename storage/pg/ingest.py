"""
Writing a batch: one transaction, once.

Order inside the transaction: the ledger row first (no row: a replay, nothing else is written), then the gate that a
moving horizon waits for, then rows, marks, day counts, transitions and losses. Whatever fails takes all of it back.

A row that the database refuses (SQLSTATE class 22 or 23) is found by bisection in a second attempt, with savepoints;
the first attempt has none, because it nearly always succeeds.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import errors, sql

from storage.batch import Batch, Checks, Samples, WriteResult, select, unstorable_metrics, with_clean_words
from storage.copyformat import encode_rows
from storage.model import MAX_ABS_VALUE, MIN_ABS_VALUE, Loss, Outcome, Table, Tier, Window, from_us, to_us
from storage.pg import partitions
from storage.pg.ids import Ids
from storage.pg.layout import GATE_LOCK, TABLE_CODE, TIER_CODE, leaf
from storage.sqlstate import is_permanent

MINUTE_US = 60_000_000

_CHECK_TYPES: tuple[str, ...] = ("timestamptz", "int4", "int2", "float4", "float4", "int2", "int4", "int4")
_CHECK_COLUMNS = "ts, agent_id, outcome, late_ms, latency_ms, http_status, reason_id, session_id"
_SAMPLE_TYPES: tuple[str, ...] = ("timestamptz", "int4", "int4", "float8")


@dataclass(slots=True)
class _Resolved:
    """The ids of everything that a batch names."""

    agents: NDArray[np.int32]
    hosts: NDArray[np.int32]
    metrics: NDArray[np.int32]
    #: Places of the metrics that cannot be stored and have no id.
    unstorable: NDArray[np.int32]
    reasons: NDArray[np.int32]
    session: int


@dataclass(slots=True)
class _Tally:
    """What one attempt did, for the ledger and the caller."""

    accepted: Counter[Table] = field(default_factory=Counter)
    rejected: Counter[tuple[Table, str]] = field(default_factory=Counter)
    losses: list[Loss] = field(default_factory=list)


def write(connection: psycopg.Connection, ids: Ids, batch: Batch) -> WriteResult:
    """Write *batch* as ``Store.write`` promises; driver errors come out as they are."""
    batch.validate()
    batch = with_clean_words(batch)
    unstorable = unstorable_metrics(batch)
    resolved = _Resolved(
        agents=ids.agents(connection, batch),
        hosts=ids.hosts(connection, batch),
        metrics=ids.metrics(connection, batch, unstorable),
        unstorable=unstorable,
        reasons=ids.reasons(connection, batch),
        session=ids.session(connection, batch.session),
    )
    try:
        return _attempt(connection, ids, batch, resolved, copy=_copy)
    except errors.UndefinedTable:
        # The day's partition is missing: a late batch, or the job that makes them ahead did not run.
        for table in Table:
            day = batch.day
            if len(batch.columns(table)) and day is not None:
                start = datetime(day.year, day.month, day.day, tzinfo=UTC)
                partitions.ensure(connection, table, [Tier.RAW], Window(start, start + timedelta(days=1)))
    except psycopg.Error as exc:
        if not is_permanent(exc.sqlstate):
            raise
    return _attempt(connection, ids, batch, resolved, copy=_copy_bisecting)


_Copy = Callable[[psycopg.Connection, Batch, Table, "Checks | Samples", _Resolved, _Tally], int]


def _attempt(
    connection: psycopg.Connection, ids: Ids, batch: Batch, resolved: _Resolved, *, copy: _Copy
) -> WriteResult:
    tally = _Tally()
    tables = [table for table in Table if len(batch.columns(table))]
    with connection.transaction():
        ledger = connection.execute(
            "INSERT INTO ingest_batches (spool_id, seq, status, n_rows) VALUES (%s, %s, 'committed', %s)"
            " ON CONFLICT (spool_id, seq) DO NOTHING",
            (batch.spool_id, batch.seq, len(batch)),
        )
        if ledger.rowcount == 0:
            return WriteResult(replayed=True)
        closed = _enter_gates(connection, tables)
        for table in tables:
            columns = _admitted(batch, table, closed[table], resolved.unstorable, tally)
            if not len(columns):
                continue
            tally.accepted[table] = copy(connection, batch, table, columns, resolved, tally)
            _mark(connection, table, columns)
        _record(connection, ids, batch, tally)
    rejected: Counter[str] = Counter()
    for (_, reason), n in tally.rejected.items():
        rejected[reason] += n
    return WriteResult(accepted=tally.accepted.total(), rejected=dict(rejected))


def _enter_gates(connection: psycopg.Connection, tables: Sequence[Table]) -> dict[Table, datetime]:
    """
    Take the gates of *tables* until the transaction ends and return the horizons below which nothing is written.

    The horizons are read by a statement of their own, after the lock: its snapshot sees whatever the last holder of
    the exclusive lock committed.
    """
    for table in tables:
        connection.execute("SELECT pg_advisory_xact_lock_shared(%s, %s)", (GATE_LOCK, TABLE_CODE[table]))
    rows = connection.execute("SELECT tbl, closed_before FROM horizons WHERE tier = %s", (TIER_CODE[Tier.RAW],))
    closed: dict[int, datetime] = dict(rows.fetchall())
    return {table: closed[TABLE_CODE[table]] for table in tables}


def _admitted(
    batch: Batch, table: Table, closed: datetime, unstorable: NDArray[np.int32], tally: _Tally
) -> Checks | Samples:
    """Return the rows that may be stored; count the others by reason, and record their slots as lost."""
    columns = batch.columns(table)
    refused = np.zeros(len(columns), np.bool_)
    for reason, found in _objections(columns, closed, unstorable):
        found &= ~refused
        if not found.any():
            continue
        refused |= found
        tally.rejected[table, reason] += int(found.sum())
        if isinstance(columns, Checks):
            tally.losses.extend(losses_of(batch, columns, found, reason))
    if refused.any():
        columns = select(columns, ~refused)
    if isinstance(columns, Samples):
        columns = replace(columns, value=np.where(np.abs(columns.value) < MIN_ABS_VALUE, 0.0, columns.value))
    return columns


def _objections(
    columns: Checks | Samples, closed: datetime, unstorable: NDArray[np.int32]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield each reason to refuse rows with a mask of the rows that it holds for."""
    yield "below_horizon", columns.ts_us < to_us(closed)
    if isinstance(columns, Checks):
        # NaN is how an answer that never came is written; an infinite one would spoil every sum above it.
        yield "not_finite", np.isinf(columns.latency_ms) | np.isinf(columns.late_ms)
    else:
        yield "bad_text", np.isin(columns.metric, unstorable)
        yield "not_finite", ~np.isfinite(columns.value)
        yield "out_of_range", np.abs(columns.value) > MAX_ABS_VALUE


def losses_of(batch: Batch, checks: Checks, chosen: NDArray[np.bool_], reason: str) -> list[Loss]:
    """Return one loss per agent for the chosen rows of *checks*."""
    found: list[Loss] = []
    for agent in np.unique(checks.agent[chosen]):
        due = checks.ts_us[chosen & (checks.agent == agent)]
        found.append(
            Loss(
                agent=batch.agents[int(agent)],
                from_due=from_us(int(due.min())),
                to_due=from_us(int(due.max())),
                n=len(due),
                reason=reason,
            )
        )
    return found


def _copy(
    connection: psycopg.Connection,
    batch: Batch,
    table: Table,
    columns: Checks | Samples,
    resolved: _Resolved,
    tally: _Tally,
) -> int:
    day = from_us(int(columns.ts_us[0])).date()
    if isinstance(columns, Checks):
        names, types = _CHECK_COLUMNS, _CHECK_TYPES
        session = np.full(len(columns), resolved.session, np.int32)
        reason = resolved.reasons[columns.reason]
        values: list[NDArray[np.generic]] = [
            columns.ts_us,
            resolved.agents[columns.agent],
            columns.outcome,
            columns.late_ms,
            columns.latency_ms,
            columns.http_status,
            reason,
            session,
        ]
        nulls = {3: np.isnan(columns.late_ms), 4: np.isnan(columns.latency_ms), 6: columns.reason < 0}
    else:
        entities = resolved.hosts if table is Table.SYSTEM else resolved.agents
        names, types = f"ts, {table.entity}, metric_id, value", _SAMPLE_TYPES
        values = [columns.ts_us, entities[columns.entity], resolved.metrics[columns.metric], columns.value]
        nulls = {}
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
        sql.Identifier(leaf(table, day)), sql.SQL(names)
    )
    with connection.cursor() as cursor:
        with cursor.copy(statement) as stream:
            for part in encode_rows(types, values, nulls):
                stream.write(part)
        return cursor.rowcount


def _copy_bisecting(
    connection: psycopg.Connection,
    batch: Batch,
    table: Table,
    columns: Checks | Samples,
    resolved: _Resolved,
    tally: _Tally,
) -> int:
    """Copy what the database takes; put the rest, row by row, into quarantine."""
    try:
        with connection.transaction():
            return _copy(connection, batch, table, columns, resolved, tally)
    except psycopg.Error as exc:
        if not is_permanent(exc.sqlstate):
            raise
        if len(columns) == 1:
            _quarantine(connection, batch, table, columns, exc, tally)
            return 0
    half = len(columns) // 2
    every = np.arange(len(columns))
    return sum(
        _copy_bisecting(connection, batch, table, select(columns, part), resolved, tally)
        for part in (every[:half], every[half:])
    )


def _quarantine(
    connection: psycopg.Connection,
    batch: Batch,
    table: Table,
    columns: Checks | Samples,
    exc: psycopg.Error,
    tally: _Tally,
) -> None:
    tally.rejected[table, f"sqlstate_{exc.sqlstate}"] += 1
    if isinstance(columns, Checks):
        tally.losses.extend(losses_of(batch, columns, np.ones(1, np.bool_), "quarantined"))
    connection.execute(
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


def in_words(batch: Batch, table: Table, columns: Checks | Samples, row: int) -> dict[str, object]:
    """Return one row as names and numbers that JSON can hold, for a person to look at."""
    words: dict[str, object] = {"ts": from_us(int(columns.ts_us[row])).isoformat()}
    if isinstance(columns, Checks):
        outcome, reason = int(columns.outcome[row]), int(columns.reason[row])
        latency = float(columns.latency_ms[row])
        words |= {
            "agent": batch.agents[int(columns.agent[row])],
            "outcome": Outcome(outcome).label if outcome in set(Outcome) else outcome,
            "latency_ms": None if math.isnan(latency) else latency,
            "http_status": int(columns.http_status[row]),
            "reason": batch.reasons[reason] if reason >= 0 else None,
        }
        return words
    metric = batch.metrics[int(columns.metric[row])]
    names = batch.hosts if table is Table.SYSTEM else batch.agents
    words |= {
        "host" if table is Table.SYSTEM else "agent": names[int(columns.entity[row])],
        "metric": metric.name,
        "labels": dict(metric.labels),
        "value": repr(float(columns.value[row])),
    }
    return words


def _mark(connection: psycopg.Connection, table: Table, columns: Checks | Samples) -> None:
    """Append a mark for every minute that got rows; what was quarantined marks one too many, which harms nothing."""
    minutes = np.unique(columns.ts_us // MINUTE_US) * MINUTE_US
    connection.execute(
        "INSERT INTO marks (tbl, tier, bucket) SELECT %s, %s, to_timestamp(second)"
        " FROM unnest(%s::bigint[]) AS second ORDER BY second",
        (TABLE_CODE[table], TIER_CODE[Tier.M1], (minutes // 1_000_000).tolist()),
    )


def _record(connection: psycopg.Connection, ids: Ids, batch: Batch, tally: _Tally) -> None:
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
        "UPDATE collector_sessions SET last_seen_at = now(), observed_to = greatest(observed_to, %s) WHERE uuid = %s",
        (from_us(batch.observed_to_us) if batch.observed_to_us else None, batch.session.uuid),
    )


def abandon(connection: psycopg.Connection, seqs: range, spool_id: str, reason: str) -> None:
    """Record that the batches *seqs* of a spool were dropped and will never come; committed ones stay as they are."""
    connection.execute(
        "INSERT INTO ingest_batches (spool_id, seq, status, n_rows, reason)"
        " SELECT %s, seq, 'dropped', 0, %s FROM generate_series(%s::bigint, %s::bigint) AS seq"
        " ON CONFLICT (spool_id, seq) DO NOTHING",
        (spool_id, reason, seqs.start, seqs.stop - 1),
    )
