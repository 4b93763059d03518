"""
The ``sqlite`` engine: one file, or a database in memory, with rollups of our own, exact at every moment.

One transaction writes at a time. Threads of this process take turns; another program that finds the file in use looks
again at intervals of up to a tenth of a second, so that whatever writes over and over (refresh, retention) leaves pauses
in which that can succeed.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import Engine

from storage import deadlines, schema
from storage.batch import Batch, WriteResult, unstorable_metrics, with_clean_words
from storage.errors import CapabilityMissing, PermanentStorageError, StorageError, TransientStorageError
from storage.layout import slice_of
from storage.lite import ingest, partitions, provision, retention, rollups
from storage.lite.claim import Claim
from storage.lite.connection import borrow, make_engine, parse_url, read_transaction, write_transaction
from storage.lite.ids import Ids, plain_uuid
from storage.model import Session, Table, Tier, Window, from_us, to_us
from storage.sqlstate import UNDEFINED
from storage.store import (
    CLOSED,
    ArrowSource,
    Capability,
    Horizon,
    LedgerDay,
    Mismatch,
    Partition,
    RefreshResult,
    Rows,
    Snapshot,
    Store,
)
from storage.transactions import end

#: SQLSTATEs of a deadline that is over, and of a turn to write that did not come in time.
QUERY_CANCELED = "57014"
LOCK_NOT_AVAILABLE = "55P03"
#: Rows of one block of a snapshot: a few megabytes at the most.
BLOCK_ROWS = 10_000
#: A little more than the longest interval at which SQLite looks whether it may write.
PAUSE_S = 0.11


class SqliteStore:
    """
    A SQLite database.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute/path.db``; ``sqlite://`` is one in memory, which this store
            has to itself and which ends with it. Nothing is opened until it is needed.
    """

    engine_name = "sqlite"
    capabilities = frozenset({Capability.EXACT_VIEWS})
    grace = timedelta(seconds=10)

    def __init__(self, url: str) -> None:
        #: ``None`` in memory.
        self._path = parse_url(url)
        self._engine = make_engine(url)
        self._ids = Ids()
        #: In memory there is nobody to keep out.
        self._claim = Claim(self._path) if self._path else None

    @property
    def engine(self) -> Engine:
        return self._engine

    def close(self) -> None:
        end(self._engine, CLOSED)
        self._ids.forget()
        if self._claim:
            self._claim.release()
        self._engine.dispose()

    def require(self, capability: Capability) -> None:
        if capability not in self.capabilities:
            have = ", ".join(sorted(each.value for each in self.capabilities))
            raise CapabilityMissing(
                capability.value, found=f"engine {self.engine_name} with {have}", needed="another engine"
            )

    def server_version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    def server_identity(self) -> str:
        """
        Return what names this database's history: the UUID that was minted with its time series, and the file.

        Another file in its place, restored or new, has another identity; so has a copy.
        """
        with read_transaction(self._engine, "reading the database's identity", deadlines.READ) as connection:
            return self._identity(connection)

    def _identity(self, connection: sqlite3.Connection) -> str:
        try:
            row = connection.execute("SELECT identity FROM provision_version").fetchone()
        except sqlite3.OperationalError as exc:
            if "no such table" not in str(exc):
                raise
            place, remedy = "in memory", "call DatabaseManager.create_schema()"
            if self._path:
                place, remedy = str(self._path), 'run "fleetpulse db upgrade", or put back the file that was there'
            raise TransientStorageError(f"database {place} has no time series: {remedy}", sqlstate="42P01") from exc
        if row is None:
            raise AssertionError("BUG: time series without an identity")
        # The connection was compared with the name when it was lent; a moment later it may have gone again.
        try:
            return f"{row[0]}/{self._path.stat().st_ino}" if self._path else str(row[0])
        except OSError as exc:
            raise TransientStorageError(
                f"database {self._path} cannot be read: {(exc.strerror or str(exc)).lower()}: put the file back",
                sqlstate="58P01",
            ) from exc

    def now(self) -> datetime:
        # Whoever uses the file is on this machine.
        return datetime.now(UTC)

    # ---------------------------------------------------------------- schema

    def check_schema(self) -> None:
        schema.require_head(self._engine)
        with read_transaction(self._engine, "checking the schema", deadlines.ADMIN) as connection:
            provision.check(connection)

    def timeseries_version(self) -> tuple[int, int]:
        with read_transaction(self._engine, "reading the version of the time series", deadlines.ADMIN) as connection:
            return provision.version(connection), provision.VERSION

    def provision(self) -> None:
        with write_transaction(self._engine, "provisioning the time series", deadlines.ADMIN) as connection:
            provision.provision(connection)

    def drop(self) -> None:
        with write_transaction(self._engine, "dropping the time series", deadlines.ADMIN) as connection:
            provision.drop(connection)

    def audit(self, keep: Mapping[Tier, timedelta | None]) -> Sequence[str]:
        # There is no server with jobs of its own.
        return []

    def ensure_partitions(self, window: Window) -> int:
        # A tier is one table, however long its time is.
        return 0

    def may_maintain(self) -> bool:
        return True

    # ---------------------------------------------------------------- writing

    @contextmanager
    def _writing(self, doing: str) -> Iterator[sqlite3.Connection]:
        """Lend a writing transaction with ids that belong to it; unless it commits they are forgotten."""
        try:
            with write_transaction(self._engine, doing, deadlines.WRITE) as connection:
                self._ids.belong_to(self._identity(connection))
                yield connection
        except BaseException:
            self._ids.forget()
            raise

    def claim_collector(self, name: str) -> None:
        if self._claim:
            self._claim.take(name)

    def open_session(self, session: Session) -> int:
        self._ids.opened = session.uuid
        with self._writing("recording the session") as connection:
            return self._ids.session(connection, session, ingest.clock_us())

    def close_session(self, session: Session) -> None:
        with self._writing("closing the session") as connection:
            connection.execute(
                "UPDATE collector_sessions SET ended_at = :now, last_seen_at = :now WHERE uuid = :uuid",
                {"now": ingest.clock_us(), "uuid": plain_uuid(session.uuid)},
            )

    def write(self, batch: Batch) -> WriteResult:
        batch.validate()
        batch = with_clean_words(batch)
        try:
            return self._write(batch, ingest.put)
        except PermanentStorageError:
            return self._write(batch, ingest.put_bisecting)

    def _write(self, batch: Batch, put: ingest.Put) -> WriteResult:
        with self._writing(f"writing batch {batch.name}") as connection:
            attempt = ingest.Attempt(
                connection=connection,
                ids=self._ids,
                batch=batch,
                unstorable=unstorable_metrics(batch),
                now_us=ingest.clock_us(),
            )
            return attempt.run(put)

    def abandon(self, batch_range: range, spool_id: str, reason: str) -> None:
        with self._writing("recording dropped batches") as connection:
            ingest.abandon(connection, batch_range, spool_id, reason, ingest.clock_us())

    # ---------------------------------------------------------------- rollups

    def dirty(self, table: Table, tier: Tier, closed_before: datetime) -> Sequence[datetime]:
        with read_transaction(self._engine, "reading marks") as connection:
            return rollups.dirty(connection, table, tier, closed_before)

    def refresh(self, table: Table, tier: Tier, *, closed_before: datetime, limit: int = 120) -> RefreshResult:
        doing = f"refreshing {table.relation(tier)}"
        # Most rounds find nothing, and need not wait for their turn to write to see it.
        with read_transaction(self._engine, doing) as connection:
            if not rollups.is_dirty(connection, table, tier, closed_before):
                return RefreshResult()
        while True:
            try:
                with _pausing(), write_transaction(self._engine, doing, deadlines.REFRESH) as connection:
                    return rollups.refresh(connection, table, tier, closed_before, limit)
            except TransientStorageError as exc:
                if exc.sqlstate == LOCK_NOT_AVAILABLE:
                    return RefreshResult(busy=True)
                # Out of time: the same buckets again would be, too, and no later one would ever have its turn.
                if exc.sqlstate != QUERY_CANCELED or limit == 1:
                    raise
                limit = max(1, limit // 4)

    def mark(self, table: Table, window: Window) -> int:
        with _pausing(), write_transaction(self._engine, f"marking {table}", deadlines.REFRESH) as connection:
            rollups.list_series(connection, table)
        with read_transaction(self._engine, f"looking for what {table} holds") as connection:
            parts = rollups.markable(connection, table, window)
        marked = 0
        for tier, part in parts:
            doing = f"marking {table.relation(tier)}"
            with _pausing(), write_transaction(self._engine, doing, deadlines.REFRESH) as connection:
                marked += rollups.mark(connection, table, tier, part)
        return marked

    def verify_tier(self, table: Table, tier: Tier, window: Window, *, against: Tier = Tier.RAW) -> Sequence[Mismatch]:
        with read_transaction(self._engine, f"verifying {table.relation(tier)}", deadlines.VERIFY) as connection:
            return rollups.verify_tier(connection, table, tier, window, against)

    def verify_ledger(self) -> Sequence[LedgerDay]:
        with read_transaction(self._engine, "verifying the ledger", deadlines.VERIFY) as connection:
            return retention.ledger_days(connection)

    # ---------------------------------------------------------------- retention

    def horizons(self) -> Sequence[Horizon]:
        with read_transaction(self._engine, "reading horizons") as connection:
            return retention.horizons(connection)

    def partitions(self, table: Table, tier: Tier) -> Sequence[Partition]:
        with read_transaction(self._engine, f"listing {table.relation(tier)}") as connection:
            return partitions.listed(connection, table, tier)

    def boundary(self, tier: Tier, moment: datetime) -> datetime:
        return slice_of(Table.HEALTH, tier, moment).window.start

    def close_below(self, table: Table, tier: Tier, boundary: datetime) -> None:
        doing = f"closing {table.relation(tier)}"
        with write_transaction(self._engine, doing, deadlines.DDL) as connection:
            retention.close_below(connection, table, tier, boundary)

    def drop_below(self, table: Table, tier: Tier, boundary: datetime) -> Sequence[Partition]:
        doing = f"dropping from {table.relation(tier)}"
        with _pausing(), write_transaction(self._engine, doing, deadlines.DDL) as connection:
            gone = retention.move_dropped(connection, table, tier, boundary)
        if not gone:
            return gone
        cut, deleted = gone[-1].window.end, retention.DELETE_ROWS
        while deleted == retention.DELETE_ROWS:
            with _pausing(), write_transaction(self._engine, doing, deadlines.DDL) as connection:
                deleted = retention.delete_below(connection, table, tier, cut)
        if tier is Tier.RAW:
            with _pausing(), write_transaction(self._engine, doing, deadlines.DDL) as connection:
                retention.forget_series(connection, table)
        self._give_back()
        return gone

    def _give_back(self) -> None:
        """Give pages that nothing will fill soon back to the disk, a few at a time."""
        with borrow(self._engine, "giving back disk space", deadlines.DDL) as connection:
            surplus = retention.surplus_pages(connection)
            while surplus > 0:
                with _pausing():
                    retention.give_back(connection, min(surplus, retention.VACUUM_PAGES))
                surplus -= retention.VACUUM_PAGES

    def purge_ledger(self, before: datetime, limit: int = 50_000) -> int:
        with _pausing(), write_transaction(self._engine, "purging the ledger", deadlines.REFRESH) as connection:
            return retention.purge_ledger(connection, before, limit)

    # ---------------------------------------------------------------- reading

    def query(
        self,
        sql: str,
        parameters: Mapping[str, object] | None = None,
        *,
        types: Mapping[str, type] | None = None,
    ) -> Rows:
        bound = {name: _bound(name, value) for name, value in (parameters or {}).items()}
        try:
            columns, rows = self._answer(sql, bound)
        except TransientStorageError as exc:
            if exc.sqlstate in UNDEFINED:
                # Of a database without the schema that is what has to be said.
                self.check_schema()
            raise
        wanted = {place: found for place, name in enumerate(columns) if (found := (types or {}).get(name))}
        if wanted:
            rows = [
                tuple(_typed(value, wanted[place]) if place in wanted else value for place, value in enumerate(row))
                for row in rows
            ]
        return Rows(columns=columns, rows=rows)

    def _answer(self, sql: str, bound: Mapping[str, object]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
        with read_transaction(self._engine, "query") as connection:
            try:
                answer = connection.execute(sql, bound)
            except sqlite3.Warning as exc:
                # Python 3.11's word for more than one statement.
                raise TransientStorageError(f"query failed: {exc}", sqlstate="42601") from exc
            columns = tuple(column[0] for column in answer.description or ())
            if not columns:
                raise TransientStorageError("query failed: the statement answers no rows", sqlstate="42601")
            return columns, answer.fetchall()

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        with (
            read_transaction(self._engine, "reading", deadlines.EXPORT) as connection,
            closing(_Rows(connection)) as rows,
        ):
            yield rows

    def arrow_source(self) -> ArrowSource:
        self.require(Capability.ARROW)
        raise AssertionError("BUG: nothing of Arrow's reads SQLite")


class _Rows:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._answers: list[Generator[Rows]] = []

    def read(self, sql: str, parameters: Mapping[str, object] | None = None) -> Iterator[Rows]:
        self._answers.append(self._read(sql, parameters))
        return self._answers[-1]

    def close(self) -> None:
        """End every answer that nobody has read to its end: a cursor has to go before its connection."""
        for each in self._answers:
            each.close()

    def _read(self, sql: str, parameters: Mapping[str, object] | None) -> Generator[Rows]:
        bound = {name: _bound(name, value) for name, value in (parameters or {}).items()}
        with closing(self._connection.execute(sql, bound)) as cursor:
            columns = tuple(column[0] for column in cursor.description or ())
            first = True
            while (rows := cursor.fetchmany(BLOCK_ROWS)) or first:
                yield Rows(columns=columns, rows=rows)
                first = False


def _bound(name: str, value: object) -> object:
    """Return a parameter as SQLite keeps it."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise StorageError(f"parameter {name} is {value}, expected an aware moment: add tzinfo=UTC")
        return to_us(value)
    return value.hex if isinstance(value, UUID) else value


def _typed(value: object, wanted: type) -> object:
    """Return an answer as the type that SQLite does not have."""
    if value is None:
        return None
    if wanted is datetime and isinstance(value, int | float):
        return from_us(round(value))
    return bool(value) if wanted is bool else value


@contextmanager
def _pausing() -> Iterator[None]:
    """After the block, let others write for as long as it took: at its end, whoever waits may be about to look again."""
    started = time.monotonic()
    yield
    time.sleep(min(time.monotonic() - started, PAUSE_S))


_: type[Store] = SqliteStore
