"""
Writing a batch: one transaction, once.

Order inside the transaction: the ledger row first (no row: a replay, nothing else is written), then ids, rows, marks, day
counts, transitions and losses. Whatever fails takes all of it back. The transaction is the only one that writes while it
lasts: it needs no other lock, and the horizons that it reads do not move.

A row that the database refuses (SQLSTATE class 22 or 23) is found by bisection in a second attempt, with savepoints;
the first attempt has none, because it nearly always succeeds.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from storage.admission import Resolved, Stored, Tally, admitted, in_words, losses_of, minutes_us, stored
from storage.batch import Batch, Checks, Samples, WriteResult, select
from storage.layout import TABLE_CODE, TIER_CODE, key_columns
from storage.lite.ids import Ids, plain_uuid
from storage.lite.layout import names
from storage.lite.provision import series_table
from storage.model import MAX_DATED_AHEAD, Table, Tier, Window, from_us, to_us
from storage.sqlstate import is_permanent, sqlstate_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One batch on its way into one database, inside the caller's transaction."""

    connection: sqlite3.Connection
    ids: Ids
    #: Validated and with clean words.
    batch: Batch
    #: Places of the metrics that cannot be stored.
    unstorable: NDArray[np.int32]
    #: Clock of this machine, microseconds since the Unix epoch.
    now_us: int

    @property
    def identity(self) -> tuple[str, int]:
        """Return what the ledger knows the batch by."""
        return self.batch.spool_id.hex, self.batch.seq

    def run(self, put: Put) -> WriteResult:
        """Write everything, rows by *put*; driver errors come out as they are."""
        connection, batch = self.connection, self.batch
        ledger = connection.execute(
            "INSERT INTO ingest_batches (spool_id, seq, status, n_rows, committed_at) VALUES (?, ?, 'committed', ?, ?)"
            " ON CONFLICT (spool_id, seq) DO NOTHING",
            (*self.identity, len(batch), self.now_us),
        )
        if ledger.rowcount == 0:
            return WriteResult(replayed=True)
        resolved = self._resolve()
        allowed = self._allowed()
        tally = Tally()
        for table in Table:
            if not len(batch.columns(table)):
                continue
            columns = admitted(batch, table, allowed[TABLE_CODE[table]], self.unstorable, tally)
            if not len(columns):
                continue
            tally.accepted[table] = put(self, table, columns, resolved, tally)
            self._mark(table, columns)
        self._record(tally)
        return tally.result()

    def _resolve(self) -> Resolved:
        connection, batch, ids = self.connection, self.batch, self.ids
        return Resolved(
            agents=ids.agents(connection, batch, self.now_us),
            hosts=ids.hosts(connection, batch, self.now_us),
            metrics=ids.metrics(connection, batch, self.unstorable),
            unstorable=self.unstorable,
            reasons=ids.reasons(connection, batch),
            session=ids.session(connection, batch.session, self.now_us),
        )

    def _allowed(self) -> dict[int, Window]:
        """Return the windows outside of which nothing is written, by the table's code."""
        ahead = from_us(self.now_us) + MAX_DATED_AHEAD
        rows = self.connection.execute(
            "SELECT tbl, closed_before FROM horizons WHERE tier = ?", (TIER_CODE[Tier.RAW],)
        ).fetchall()
        return {code: Window(from_us(closed), max(from_us(closed), ahead)) for code, closed in rows}

    def _mark(self, table: Table, columns: Checks | Samples) -> None:
        """Append a mark for every minute that got rows; what was quarantined marks one too many, which harms nothing."""
        code, tier = TABLE_CODE[table], TIER_CODE[Tier.M1]
        self.connection.executemany(
            "INSERT INTO marks (tbl, tier, bucket) VALUES (?, ?, ?)",
            ((code, tier, minute) for minute in minutes_us(columns).tolist()),
        )

    def _record(self, tally: Tally) -> None:
        """Write what goes with the rows: day counts, refusals, losses, transitions, how far the collector has come."""
        connection, batch, now_us = self.connection, self.batch, self.now_us
        day = batch.day.isoformat() if batch.day else ""
        connection.executemany(
            "INSERT INTO ingest_batch_days (spool_id, seq, tbl, utc_day, n) VALUES (?, ?, ?, ?, ?)",
            [(*self.identity, TABLE_CODE[table], day, n) for table, n in tally.accepted.items()],
        )
        connection.executemany(
            "INSERT INTO ingest_rejections (spool_id, seq, tbl, reason, n, recorded_at) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (*self.identity, TABLE_CODE[table], reason, n, now_us)
                for (table, reason), n in sorted(tally.rejected.items())
            ],
        )
        connection.executemany(
            "INSERT INTO losses (agent_id, from_due, to_due, n, reason, spool_id, seq, recorded_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    self.ids.agent(loss.agent),
                    to_us(loss.from_due),
                    to_us(loss.to_due),
                    loss.n,
                    loss.reason,
                    *self.identity,
                    now_us,
                )
                for loss in (*batch.losses, *tally.losses)
            ],
        )
        self._change_statuses()
        connection.execute(
            "UPDATE collector_sessions SET last_seen_at = CASE WHEN :live THEN :now ELSE last_seen_at END,"
            " observed_to = CASE WHEN :observed > coalesce(observed_to, 0) THEN :observed ELSE observed_to END"
            " WHERE uuid = :uuid",
            {
                "live": self.ids.is_live(batch.session),
                "now": now_us,
                "observed": batch.observed_to_us,
                "uuid": plain_uuid(batch.session.uuid),
            },
        )

    def _change_statuses(self) -> None:
        for change in self.batch.transitions:
            values = {
                "agent": self.ids.agent(change.agent),
                "due": to_us(change.due),
                "old": change.old,
                "new": change.new,
                "reason": change.reason,
                "spool": self.identity[0],
                "seq": self.batch.seq,
            }
            self.connection.execute(
                "INSERT INTO status_events (agent_id, ts, from_status, to_status, reason, spool_id, seq)"
                " VALUES (:agent, :due, :old, :new, :reason, :spool, :seq)",
                values,
            )
            # Old batches drain behind live ones: within one spool the later batch wins, whatever the wall clock did;
            # between spools the later due time.
            self.connection.execute(
                "UPDATE agents SET status = :new, status_due = :due, status_spool = :spool, status_seq = :seq,"
                " status_reason = :reason"
                " WHERE id = :agent AND CASE WHEN status_spool = :spool THEN status_seq <= :seq"
                " ELSE status_due IS NULL OR status_due < :due END",
                values,
            )


Put = Callable[[Attempt, Table, Checks | Samples, Resolved, Tally], int]


def put(attempt: Attempt, table: Table, columns: Checks | Samples, resolved: Resolved, tally: Tally) -> int:
    """Write all rows, series by series; driver errors come out as they are."""
    rows = stored(table, columns, resolved)
    places = ", ".join("?" * len(rows.columns))
    # The rows of a series then go to one page of its index, one after another: a third less work with ten rows of each.
    order = np.lexsort([rows.values[rows.columns.index(name)] for name in ("ts", *reversed(key_columns(table)))])
    plain = [_plain(rows, place, order) for place in range(len(rows.columns))]
    attempt.connection.executemany(
        f"INSERT INTO {table.value} ({names(rows.columns)}) VALUES ({places})",  # noqa: S608  # names of our own
        zip(*plain, strict=True),
    )
    _know_series(attempt, table, rows)
    return len(rows)


def _plain(rows: Stored, place: int, order: NDArray[np.intp]) -> list[object]:
    values: list[object] = rows.values[place][order].tolist()
    null = rows.nulls.get(place)
    if null is not None and null.any():
        for row in np.flatnonzero(null[order]).tolist():
            values[row] = None
    return values


def _know_series(attempt: Attempt, table: Table, rows: Stored) -> None:
    """Note which series have rows now; asked anew for each batch, because retention forgets those that have none left."""
    key = key_columns(table)
    packed = np.zeros(len(rows), np.int64)
    for name in key:
        packed = packed << 32 | rows.values[rows.columns.index(name)].astype(np.int64)
    found = np.unique(packed)
    ids = [(found >> 32 * place & 0xFFFFFFFF).tolist() for place in reversed(range(len(key)))]
    attempt.connection.executemany(
        f"INSERT OR IGNORE INTO {series_table(table)} ({names(key)}) VALUES ({', '.join('?' * len(key))})",  # noqa: S608  # names of our own
        zip(*ids, strict=True),
    )


def put_bisecting(attempt: Attempt, table: Table, columns: Checks | Samples, resolved: Resolved, tally: Tally) -> int:
    """Write what the database takes; put the rest, row by row, into quarantine."""
    connection = attempt.connection
    connection.execute("SAVEPOINT part")
    try:
        n = put(attempt, table, columns, resolved, tally)
    except (sqlite3.Error, OverflowError) as exc:
        state = sqlstate_of(exc)
        if not is_permanent(state):
            raise
        connection.execute("ROLLBACK TO part")
        connection.execute("RELEASE part")
        if len(columns) == 1:
            _quarantine(attempt, table, columns, str(state), str(exc), tally)
            return 0
    else:
        connection.execute("RELEASE part")
        return n
    half = len(columns) // 2
    every = np.arange(len(columns))
    return sum(
        put_bisecting(attempt, table, select(columns, part), resolved, tally) for part in (every[:half], every[half:])
    )


def _quarantine(
    attempt: Attempt, table: Table, columns: Checks | Samples, state: str, message: str, tally: Tally
) -> None:
    batch = attempt.batch
    tally.rejected[table, f"sqlstate_{state}"] += 1
    if isinstance(columns, Checks):
        tally.losses.extend(losses_of(batch, columns, np.ones(1, np.bool_), "quarantined"))
    attempt.connection.execute(
        "INSERT INTO quarantine (spool_id, seq, tbl, payload, sqlstate, message, recorded_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            *attempt.identity,
            TABLE_CODE[table],
            json.dumps(in_words(batch, table, columns, 0)),
            state,
            message,
            attempt.now_us,
        ),
    )


def abandon(connection: sqlite3.Connection, seqs: range, spool_id: str, reason: str, now_us: int) -> None:
    """Record that the batches *seqs* of a spool were dropped and will never come; committed ones stay as they are."""
    spool = plain_uuid(spool_id)
    connection.executemany(
        "INSERT INTO ingest_batches (spool_id, seq, status, n_rows, reason, committed_at)"
        " VALUES (?, ?, 'dropped', 0, ?, ?) ON CONFLICT (spool_id, seq) DO NOTHING",
        ((spool, seq, reason, now_us) for seq in seqs),
    )


def clock_us() -> int:
    """Return the moment by this machine's clock, in microseconds since the Unix epoch."""
    return to_us(datetime.now(UTC))
