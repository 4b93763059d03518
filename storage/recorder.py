"""
What a client saw itself, written the way that the collector writes.

Checks and samples of a service, a worker or a notebook become batches and go through ``Store.write``: the same ledger,
marks, horizons and admission. What the collector takes to its spool goes to the database at once here, and what that
could not take is the caller's to repeat.

Rows that may not be stored are counted by reason, in the answer and in the database, and the others are written. What
no database could make sense of (an unknown agent, a moment without a time zone, an outcome that there is none of)
raises, and then nothing is written.
"""

from __future__ import annotations

import os
import socket
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

from sqlalchemy import select

from storage.batch import WriteResult
from storage.client_rows import (
    HealthCheck,
    Row,
    Sample,
    agent_of,
    batch_of,
    check_row,
    check_rows,
    digest,
    metric_rows,
    name_of,
    parts,
    sample_rows,
)
from storage.errors import StorageError, TransientStorageError
from storage.forks import Lock
from storage.model import Kind, Outcome, Session
from storage.models import Agent
from storage.repositories.base import pieces, unknown
from storage.sqlstate import translated
from storage.store import Store
from storage.versions import release

__all__ = ["HealthCheck", "Recorder", "Sample"]

#: Of a batch, rows by the reason for which they were refused; by none, those that were written.
_COUNTS = """
SELECT '' AS reason, sum(n) AS n FROM ingest_batch_days WHERE spool_id = :spool AND seq = :seq GROUP BY seq
UNION ALL
SELECT reason, sum(n) FROM ingest_rejections WHERE spool_id = :spool AND seq = :seq GROUP BY reason
"""
#: A cut link is mended by the next try. A database that is away is not waited for: how long is the caller's to say.
_TRIES = 3
#: Calls that failed and may be repeated; some hundred bytes each.
_MAX_UNDECIDED = 100_000


class Recorder:
    """
    Writes health checks and samples of a client into *store*. Safe for several threads, which take turns.

    A call returns when its rows are in the database. One that raises ``TransientStorageError`` may be made again with the
    same arguments, by the same recorder: rows that did get through, although the answer was lost, are not written
    twice. Where the moment is left to the clock, it is that of the repetition, unless the first call did get through.

    Args:
        store: Written by this recorder alone: a store takes batches from one thread at a time.
        name: What the client is called in ``collector_sessions``.
        clock: Tells the moment of a call that names none; aware.
    """

    def __init__(
        self, store: Store, *, name: str = "service", clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._store = store
        self._name = name_of("client", name)
        self._clock = clock
        #: Guards everything below, and the store's writer.
        self._turn = Lock()
        self._is_closed = False
        self._begin()

    def _begin(self) -> None:
        self._session = Session(
            uuid=str(uuid4()),
            name=self._name,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=release(),
            started_at=self._clock(),
            is_collector=False,
        )
        self._spool_id: UUID = uuid4()
        self._next_seq = 1
        #: Digest of a call whose outcome is not known to the sequence numbers of its batches.
        self._undecided: OrderedDict[bytes, tuple[int, ...]] = OrderedDict()
        #: Agents that are there; none is ever deleted.
        self._known: set[str] = set()

    # ---------------------------------------------------------------- what was seen

    def health_check(
        self,
        agent: str,
        outcome: Outcome | str,
        *,
        at: datetime | None = None,
        latency_ms: float | None = None,
        http_status: int = 0,
        reason: str = "",
    ) -> WriteResult:
        """
        Record how *agent* was found; now, or at the moment *at*.

        It counts as a check of the collector's does in every report. The agent's status, which is decided by what the
        collector sees, stays.

        Raises:
            UnknownName: There is no such agent.
            InputError: Something else cannot be stored.
            TransientStorageError: The database could not take it now; the same call may be made again.
        """
        check = HealthCheck(
            agent=agent,
            at=self._clock() if at is None else at,
            outcome=outcome,
            latency_ms=latency_ms,
            http_status=http_status,
            reason=reason,
        )
        return self._record([check_row(check)], clocked=at is None)

    def health_checks(self, rows: Iterable[HealthCheck]) -> WriteResult:
        """Record many checks, of any agents and moments; raises as ``health_check`` does."""
        return self._record(check_rows(rows))

    def agent_metrics(
        self,
        agent: str,
        values: Mapping[str, float],
        *,
        at: datetime | None = None,
        kind: Kind | str = Kind.GAUGE,
        labels: Mapping[str, str] | None = None,
        units: Mapping[str, str] | None = None,
    ) -> WriteResult:
        """
        Record one value of each metric of *values* for *agent*; now, or at the moment *at*.

        Args:
            values: By metric; of counters the increase since the last call, never the reading.
            kind: Of all of them.
            labels: Of all of them; part of each metric's identity.
            units: By metric; UCUM-like.

        Raises:
            UnknownName: There is no such agent.
            InputError: Something else cannot be stored.
            TransientStorageError: The database could not take it now; the same call may be made again.
        """
        when = self._clock() if at is None else at
        rows = metric_rows("agent", agent, values, at=when, kind=kind, labels=labels, units=units)
        return self._record(rows, clocked=at is None, agents=(agent,))

    def system_metrics(
        self,
        host: str,
        values: Mapping[str, float],
        *,
        at: datetime | None = None,
        kind: Kind | str = Kind.GAUGE,
        labels: Mapping[str, str] | None = None,
        units: Mapping[str, str] | None = None,
    ) -> WriteResult:
        """Record values of a machine, which becomes known by this; otherwise as ``agent_metrics``."""
        when = self._clock() if at is None else at
        rows = metric_rows("host", host, values, at=when, kind=kind, labels=labels, units=units)
        return self._record(rows, clocked=at is None)

    def samples(self, rows: Iterable[Sample]) -> WriteResult:
        """Record many samples, of any agents, hosts, metrics and moments; raises as ``agent_metrics`` does."""
        return self._record(sample_rows(rows))

    def close(self) -> None:
        """
        Record the orderly end of this client, if it has recorded anything; it records nothing afterwards.

        Raises:
            TransientStorageError: The database could not be reached.
        """
        with self._turn:
            self._is_closed = True
            # A child that has written nothing does not speak for its parent.
            if self._next_seq > 1 and self._session.pid == os.getpid():
                self._store.close_session(self._session)

    # ---------------------------------------------------------------- writing

    def _record(self, rows: Sequence[Row], *, clocked: bool = False, agents: Collection[str] = ()) -> WriteResult:
        """
        Write *rows*, in one transaction for each UTC day and ``MAX_ROWS``.

        Args:
            clocked: Their moment is this recorder's, and another one when the call is made again.
            agents: Have to be there, whether there are rows of them or not.
        """
        if not rows and not agents:
            return WriteResult()
        with self._turn:
            if self._is_closed:
                raise StorageError(f"recorder {self._name} is closed: make another one")
            if self._session.pid != os.getpid():
                # A child of the process that made this recorder: under the same identity, rows of the one would pass
                # for those of the other.
                self._begin()
            self._insist_on({*agents, *(name for name in map(agent_of, rows) if name)})
            if not rows:
                return WriteResult()
            days = list(parts(rows))
            key = digest(rows, clocked=clocked) if self._undecided else b""
            seqs = self._undecided.pop(key, None)
            is_repeated = seqs is not None
            if seqs is None:
                seqs = tuple(range(self._next_seq, self._next_seq + len(days)))
                self._next_seq += len(days)
            try:
                results = [self._offer(part, seq) for part, seq in zip(days, seqs, strict=True)]
                return _together(results, is_repeated=is_repeated)
            except BaseException as exc:
                # Whoever is interrupted does not know either.
                self._undecided[key or digest(rows, clocked=clocked)] = seqs
                if len(self._undecided) > _MAX_UNDECIDED:
                    self._undecided.popitem(last=False)
                # Another database may be there the next time.
                self._known.clear()
                if not isinstance(exc, TransientStorageError):
                    raise
                raise TransientStorageError(
                    f"{exc}: nothing is known to be lost, make the same call again", sqlstate=exc.sqlstate
                ) from exc

    def _offer(self, rows: Sequence[Row], seq: int) -> WriteResult:
        """Write *rows* as batch *seq*: what an earlier try has committed is a replay to the ledger, which knows the counts."""
        batch = batch_of(rows, self._spool_id, seq, self._session)
        for left in reversed(range(_TRIES)):
            try:
                result = self._store.write(batch)
                return self._counted(seq) if result.replayed else result
            except TransientStorageError:
                if not left:
                    raise
        raise AssertionError("BUG: the last try neither returned nor raised")

    def _counted(self, seq: int) -> WriteResult:
        """Return what was said, or would have been, to the try that has committed batch *seq*."""
        counts = self._store.query(_COUNTS, {"spool": self._spool_id, "seq": seq}).rows
        told = {str(reason): int(str(n)) for reason, n in counts}
        return WriteResult(accepted=told.pop("", 0), rejected=told, replayed=True)

    def _insist_on(self, names: Collection[str]) -> None:
        """Insist that the agents *names* are there: the writer would make retired ones of those that are not."""
        missing = sorted(name for name in names if name not in self._known)
        if not missing:
            return
        with translated("looking for agents"), self._store.engine.connect() as connection:
            for listed in pieces(missing):
                asked = select(Agent.name).where(Agent.name.in_(listed))
                self._known.update(connection.scalars(asked))
            absent = next((name for name in missing if name not in self._known), None)
            if absent is not None:
                there = connection.scalars(select(Agent.name).where(Agent.state != "retired").order_by(Agent.name))
                raise unknown("agent", absent, there, otherwise="register it first")


def _together(results: Sequence[WriteResult], *, is_repeated: bool) -> WriteResult:
    """Return the answers to the batches of one call as one; what a try of the same call has written is no replay."""
    rejected: Counter[str] = Counter()
    for result in results:
        rejected.update(result.rejected)
    return WriteResult(
        accepted=sum(result.accepted for result in results),
        rejected=dict(rejected),
        replayed=is_repeated and all(result.replayed for result in results),
    )
