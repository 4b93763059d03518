"""
Names to ids: agents, hosts, metrics, reasons and sessions of a batch.

Ids are made in the transaction of the batch and cached; whoever rolls one back empties the cache. It also belongs to one
database: a file that was put in another's place has other ids for the same names.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from storage.batch import Batch
from storage.known_ids import KnownIds
from storage.metric_labels import labels_digest, labels_json
from storage.model import Session, to_us


class Ids(KnownIds):
    """The ids of one database, by name; used by the writer's thread alone."""

    def __init__(self) -> None:
        super().__init__()
        #: Identity of the database that the cache is of.
        self._database = ""

    def belong_to(self, database: str) -> None:
        """Empty the cache where it is of another database than the one of this identity."""
        if database != self._database:
            self.forget()
            self._database = database

    def agents(self, connection: sqlite3.Connection, batch: Batch, now_us: int) -> NDArray[np.int32]:
        """
        Return the id of each of ``batch.agents``.

        A name that the database does not know becomes a retired agent: its samples are older than its registration,
        or come from another database's spool, and they are not lost for that.
        """
        events = {t.agent for t in batch.transitions} | {loss.agent for loss in batch.losses}
        self._learn(
            connection,
            self._agents,
            dict.fromkeys((*batch.agents, *sorted(events))),
            "SELECT id FROM agents WHERE name = ?",
            "INSERT INTO agents (name, type, probe, endpoint, labels, interval_s, timeout_s, rise, fall,"
            " credential, options, source, state, created_at, retired_at)"
            " VALUES (?, 'unknown', 'http', '', '{}', 15, 10, 1, 2, '', '{}', 'api', 'retired', ?, ?)",
            lambda name: (name, now_us, now_us),
        )
        return np.array([self._agents[name] for name in batch.agents], np.int32)

    def hosts(self, connection: sqlite3.Connection, batch: Batch, now_us: int) -> NDArray[np.int32]:
        """Return the id of each of ``batch.hosts``."""
        self._learn(
            connection,
            self._hosts,
            batch.hosts,
            "SELECT id FROM hosts WHERE name = ?",
            "INSERT INTO hosts (name, created_at) VALUES (?, ?)",
            lambda name: (name, now_us),
        )
        return np.array([self._hosts[name] for name in batch.hosts], np.int32)

    def reasons(self, connection: sqlite3.Connection, batch: Batch) -> NDArray[np.int32]:
        """Return the id of each of ``batch.reasons``, and of none in the last place, where index -1 points."""
        self._learn(
            connection,
            self._reasons,
            batch.reasons,
            "SELECT id FROM reasons WHERE reason = ?",
            "INSERT INTO reasons (reason) VALUES (?)",
            lambda reason: (reason,),
        )
        return np.array([*(self._reasons[reason] for reason in batch.reasons), 0], np.int32)

    def metrics(self, connection: sqlite3.Connection, batch: Batch, without: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the id of each of ``batch.metrics``, 0 for those in the places *without*."""
        left_out = {batch.metrics[place] for place in without}
        for key in batch.metrics:
            if key in self._metrics or key in left_out:
                continue
            identity = (key.name, key.kind.value, labels_digest(key.labels))
            row = connection.execute(
                "SELECT id FROM metrics WHERE name = ? AND kind = ? AND labels_digest = ?", identity
            ).fetchone()
            if row is None:
                row = connection.execute(
                    "INSERT INTO metrics (name, kind, labels_digest, labels, unit, description)"
                    " VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
                    (*identity, labels_json(key.labels), key.unit, key.description),
                ).fetchone()
            self._metrics[key] = row[0]
        return np.array([self._metrics.get(key, 0) for key in batch.metrics], np.int32)

    def session(self, connection: sqlite3.Connection, session: Session, now_us: int) -> int:
        """Return the id of *session*, recording it the first time."""
        self._learn(
            connection,
            self._sessions,
            [session.uuid],
            "SELECT id FROM collector_sessions WHERE uuid = ?",
            "INSERT INTO collector_sessions (uuid, name, host, pid, version, started_at, last_seen_at, is_collector)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            lambda uuid: (
                plain_uuid(uuid),
                session.name,
                session.host,
                session.pid,
                session.version,
                to_us(session.started_at),
                now_us if self.is_live(session) else to_us(session.started_at),
                session.is_collector,
            ),
            key=plain_uuid,
        )
        return self._sessions[session.uuid]

    @staticmethod
    def _learn(
        connection: sqlite3.Connection,
        known: dict[str, int],
        wanted: Iterable[str],
        select: str,
        insert: str,
        values: Callable[[str], tuple[object, ...]],
        key: Callable[[str], str] = str,
    ) -> None:
        """Bring the ids of *wanted* into *known*, making those that the database does not have; it has one writer."""
        for name in wanted:
            if name in known:
                continue
            row = connection.execute(select, (key(name),)).fetchone()
            if row is None:
                row = connection.execute(f"{insert} RETURNING id", values(name)).fetchone()
            known[name] = row[0]


def plain_uuid(text: str) -> str:
    """Return a UUID as SQLite keeps it: 32 hexadecimal digits."""
    return UUID(text).hex
