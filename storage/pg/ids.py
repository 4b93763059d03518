"""
Names to ids: agents, hosts, metrics, reasons and sessions of a batch.

Ids are made in transactions of their own, before the batch's, and cached once committed: a batch that is rolled back
never leaves a cached id that the database does not have. The cache is emptied with the connection, because the server
behind the next one may have lost the last commits of the one before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray

from storage.batch import Batch
from storage.known_ids import KnownIds
from storage.metric_labels import labels_digest, labels_json
from storage.model import Session


class Ids(KnownIds):
    """The ids of one database, by name; used by the writer's thread alone."""

    def agents(self, connection: psycopg.Connection, batch: Batch) -> NDArray[np.int32]:
        """
        Return the id of each of ``batch.agents``.

        A name that the database does not know becomes a retired agent: its samples are older than its registration,
        or come from another database's spool, and they are not lost for that.
        """
        events = {t.agent for t in batch.transitions} | {loss.agent for loss in batch.losses}
        self._learn(
            connection,
            self._agents,
            {*batch.agents, *events},
            "SELECT name, id FROM agents WHERE name = ANY(%s)",
            "INSERT INTO agents (name, type, probe, endpoint, labels, interval_s, timeout_s, rise, fall,"
            " credential, options, source, state, created_at, retired_at)"
            " SELECT name, 'unknown', 'http', '', '{}', 15, 10, 1, 2, '', '{}', 'api', 'retired', now(), now()"
            " FROM unnest(%s::text[]) AS name ORDER BY name ON CONFLICT (name) DO NOTHING",
        )
        return np.fromiter(map(self._agents.__getitem__, batch.agents), np.int32, len(batch.agents))

    def hosts(self, connection: psycopg.Connection, batch: Batch) -> NDArray[np.int32]:
        """Return the id of each of ``batch.hosts``."""
        self._learn(
            connection,
            self._hosts,
            batch.hosts,
            "SELECT name, id FROM hosts WHERE name = ANY(%s)",
            "INSERT INTO hosts (name, created_at) SELECT name, now() FROM unnest(%s::text[]) AS name"
            " ORDER BY name ON CONFLICT (name) DO NOTHING",
        )
        return np.array([self._hosts[name] for name in batch.hosts], np.int32)

    def reasons(self, connection: psycopg.Connection, batch: Batch) -> NDArray[np.int32]:
        """Return the id of each of ``batch.reasons``, and of none in the last place, where index -1 points."""
        self._learn(
            connection,
            self._reasons,
            batch.reasons,
            "SELECT reason, id FROM reasons WHERE reason = ANY(%s)",
            "INSERT INTO reasons (reason) SELECT reason FROM unnest(%s::text[]) AS reason"
            " ORDER BY reason ON CONFLICT (reason) DO NOTHING",
        )
        return np.array([*(self._reasons[reason] for reason in batch.reasons), 0], np.int32)

    def metrics(self, connection: psycopg.Connection, batch: Batch, without: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the id of each of ``batch.metrics``, 0 for those in the places *without*."""
        left_out = {batch.metrics[place] for place in without}
        for insert in (False, True, False):
            missing = list(
                dict.fromkeys(key for key in batch.metrics if key not in self._metrics and key not in left_out)
            )
            if not missing:
                break
            digests = [labels_digest(key.labels) for key in missing]
            names, kinds = [key.name for key in missing], [key.kind.value for key in missing]
            if insert:
                labels = [labels_json(key.labels) for key in missing]
                units, texts = [key.unit for key in missing], [key.description for key in missing]
                connection.execute(
                    "INSERT INTO metrics (name, kind, labels, labels_digest, unit, description)"
                    " SELECT * FROM unnest(%s::text[], %s::text[], %s::jsonb[], %s::bytea[], %s::text[], %s::text[])"
                    " AS m (name, kind, labels, digest, unit, description)"
                    " ORDER BY m.name, m.kind, m.digest ON CONFLICT (name, kind, labels_digest) DO NOTHING",
                    (names, kinds, labels, digests, units, texts),
                )
                continue
            rows = connection.execute(
                "SELECT m.id, m.name, m.kind, m.labels_digest"
                " FROM metrics AS m"
                " JOIN unnest(%s::text[], %s::text[], %s::bytea[]) AS w (name, kind, digest)"
                " ON m.name = w.name AND m.kind = w.kind AND m.labels_digest = w.digest",
                (names, kinds, digests),
            )
            found = {(name, kind, bytes(digest)): number for number, name, kind, digest in rows}
            for key, digest in zip(missing, digests, strict=True):
                number = found.get((key.name, key.kind.value, digest))
                if number is not None:
                    self._metrics[key] = number
        return np.array([self._metrics.get(key, 0) for key in batch.metrics], np.int32)

    def _learn(
        self,
        connection: psycopg.Connection,
        known: dict[str, int],
        names: Iterable[str],
        select: LiteralString,
        insert: LiteralString,
    ) -> None:
        """
        Bring the ids of *names* into *known*, making those that the database does not have.

        It is asked first: an INSERT that meets a conflict has used up an id all the same, and a connection that comes
        and goes would use up the sequence.
        """
        for statement, answers in ((select, True), (insert, False), (select, True)):
            missing = [*set(names).difference(known)]
            if not missing:
                return
            cursor = connection.execute(statement, (missing,))
            if answers:
                known.update(dict(cursor.fetchall()))

    def session(self, connection: psycopg.Connection, session: Session) -> int:
        """Return the id of *session*, recording it the first time."""
        known = self._sessions.get(session.uuid)
        if known is not None:
            return known
        connection.execute(
            "INSERT INTO collector_sessions (uuid, name, host, pid, version, started_at, last_seen_at, is_collector)"
            " VALUES (%s, %s, %s, %s, %s, %s, coalesce(%s, now()), %s) ON CONFLICT (uuid) DO NOTHING",
            (
                session.uuid,
                session.name,
                session.host,
                session.pid,
                session.version,
                session.started_at,
                None if self.is_live(session) else session.started_at,
                session.is_collector,
            ),
        )
        row = connection.execute("SELECT id FROM collector_sessions WHERE uuid = %s", (session.uuid,)).fetchone()
        if row is None:
            raise AssertionError(f"BUG: session {session.uuid} was recorded and is not there")
        self._sessions[session.uuid] = int(row[0])
        return int(row[0])
