"""
The store on a server of the PostgreSQL family: what its engines share, and the look at the server that tells them apart.

Relational half, ids, ledger, gates and horizons are the same on both engines. What differs, the shape of the time
series, is a ``Series``; which one a database has is asked with its first use, not before, so that a daemon starts
while its database is away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from storage import deadlines, schema
from storage.batch import Batch, WriteResult
from storage.deadlines import Deadline
from storage.errors import CapabilityMissing, CollectorRunning, TransientStorageError
from storage.layout import AHEAD
from storage.model import Session, Table, Tier, Window
from storage.pg import claim, ingest, retention, rollups
from storage.pg.connection import SESSION, borrow, connect, insist_direct, make_engine, parse_url, set_local
from storage.pg.forks import is_lost
from storage.pg.ids import Ids
from storage.pg.provision import provisioned_for
from storage.pg.series import Series, Server
from storage.pg.snapshot import arrow_source, snapshot
from storage.sqlstate import UNDEFINED, is_permanent, sqlstate_of, translate
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
from storage.transactions import end, insist_open

#: SQLSTATE of a statement that exceeded its deadline.
QUERY_CANCELED = "57014"
#: What a question begins with; settings that end with its transaction, as in ``storage.pg.snapshot``.
_READING = (*SESSION, f"statement_timeout = '{deadlines.READ.statement_ms}'")


class PgStore:
    """
    A database of the PostgreSQL family.

    Args:
        url: ``postgresql://user:password@host:port/database``; a unix socket as ``?host=/folder``. Nothing is
            connected until it is needed, so that a daemon starts while its database is away.
        choose: Tells the time series that a server and its database have, or are to have.
    """

    def __init__(self, url: str, choose: Callable[[Server], Series]) -> None:
        self._url = parse_url(url)
        self._engine = make_engine(self._url)
        self._choose = choose
        self._arrow = arrow_source(self._url)
        #: Chosen with the first connection; racing threads choose the same.
        self._chosen: Series | None = None
        #: The writer's connection; made, used and closed by the writer's thread alone.
        self._writer: psycopg.Connection | None = None
        self._ids = Ids()
        #: The backend that last held the collector's lock for this store.
        self._claim: claim.Backend | None = None

    @property
    def _series(self) -> Series:
        if self._chosen is None:
            with borrow(self._engine, "looking at the server", deadlines.ADMIN) as connection:
                self._chosen = self._choose(_server(connection))
        return self._chosen

    @contextmanager
    def _lent(self, doing: str, deadline: Deadline) -> Iterator[tuple[Series, psycopg.Connection]]:
        """Lend a pooled connection with the time series that it is for; the look at the server comes before it."""
        series = self._series
        with borrow(self._engine, doing, deadline) as connection:
            yield series, connection

    @property
    def engine_name(self) -> str:
        return self._series.name

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._series.capabilities

    @property
    def grace(self) -> timedelta:
        return self._series.grace

    @property
    def engine(self) -> Engine:
        return self._engine

    def close(self) -> None:
        end(self._engine, CLOSED)
        self._drop_writer()
        self._arrow.close()
        self._engine.dispose()

    def require(self, capability: Capability) -> None:
        if capability not in self.capabilities:
            have = ", ".join(sorted(each.value for each in self.capabilities))
            raise CapabilityMissing(
                capability.value, found=f"engine {self.engine_name} with {have}", needed="another engine"
            )

    def server_version(self) -> str:
        self._series.insist()
        return self._series.product()

    def server_identity(self) -> str:
        with self._writing("reading the server's identity") as connection:
            row = connection.execute(
                # The first eight digits of a WAL file's name are the timeline, which changes with every promotion; a
                # standby has no file of its own to name.
                "SELECT s.system_identifier, CASE WHEN pg_is_in_recovery() THEN c.timeline_id::text"
                " ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END, d.oid"
                " FROM pg_control_system() AS s, pg_control_checkpoint() AS c, pg_database AS d"
                " WHERE d.datname = current_database()"
            ).fetchone()
        if row is None:
            raise AssertionError("BUG: a server without an identity")
        return "/".join(map(str, row))

    def now(self) -> datetime:
        with borrow(self._engine, "reading the server's clock", deadlines.READ) as connection:
            row = connection.execute("SELECT clock_timestamp()").fetchone()
        if row is None:
            raise AssertionError("BUG: a server without a clock")
        found: datetime = row[0]
        return found

    # ---------------------------------------------------------------- schema

    def check_schema(self) -> None:
        schema.require_head(self._engine)
        self._series.insist()
        with self._lent("checking the schema", deadlines.ADMIN) as (series, connection):
            series.check(connection)

    def timeseries_version(self) -> tuple[int, int]:
        with self._lent("reading the version of the time series", deadlines.ADMIN) as (series, connection):
            return series.version(connection)

    def provision(self) -> None:
        self._series.insist()
        with self._lent("provisioning the time series", deadlines.ADMIN) as (series, connection):
            series.provision(connection)
        today = datetime.now(UTC)
        self.ensure_partitions(Window(today, today + AHEAD))

    def drop(self) -> None:
        with self._lent("dropping the time series", deadlines.ADMIN) as (series, connection):
            series.drop(connection)
        # Without time series the database may get any engine's.
        self._chosen = None

    def audit(self, keep: Mapping[Tier, timedelta | None]) -> Sequence[str]:
        with self._lent("auditing the server's jobs", deadlines.READ) as (series, connection):
            return series.audit(connection, keep)

    def ensure_partitions(self, window: Window) -> int:
        with self._lent("making partitions", deadlines.DDL) as (series, connection):
            return series.ensure_partitions(connection, window)

    def may_maintain(self) -> bool:
        with borrow(self._engine, "looking at the role", deadlines.READ) as connection:
            row = connection.execute(
                "SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class AS c WHERE c.oid = to_regclass('horizons')"
            ).fetchone()
        return row == (True,)

    # ---------------------------------------------------------------- writing

    @contextmanager
    def _writing(self, doing: str) -> Iterator[psycopg.Connection]:
        """Lend the writer's connection; after an error it is made anew, because its state is not known."""
        if self._writer is None or is_lost(self._writer):
            insist_open(self._engine)
            self._drop_writer()
            self._writer = connect(self._url)
        try:
            yield self._writer
        except psycopg.Error as exc:
            if not is_permanent(exc.sqlstate):
                self._drop_writer()
            raise translate(exc, doing) from exc

    def _drop_writer(self) -> None:
        self._ids.forget()
        if self._writer is not None:
            if not is_lost(self._writer):
                self._writer.close()
            self._writer = None

    def claim_collector(self, name: str) -> None:
        with self._writing("claiming the database") as connection:
            insist_direct(connection)
            if claim.take(connection):
                self._claim = claim.own(connection)
                return
            holder = claim.holder(connection)
            if holder is not None and holder.backend == self._claim:
                # A connection of ours that was cut: the server has not noticed yet, and may not for minutes.
                claim.end(connection, holder)
        found = f"a collector on {holder.address}, backend {holder.backend[0]}," if holder else "another collector"
        raise CollectorRunning(f"database is taken: {found} holds it; stop that one before collector {name} starts")

    def open_session(self, session: Session) -> int:
        self._ids.opened = session.uuid
        with self._writing("recording the session") as connection:
            return self._ids.session(connection, session)

    def close_session(self, session: Session) -> None:
        with self._writing("closing the session") as connection:
            connection.execute(
                "UPDATE collector_sessions SET ended_at = now(), last_seen_at = now() WHERE uuid = %s", (session.uuid,)
            )

    def write(self, batch: Batch) -> WriteResult:
        sink = self._series.sink
        with self._writing(f"writing batch {batch.name}") as connection:
            return ingest.write(connection, self._ids, batch, sink)

    def abandon(self, batch_range: range, spool_id: str, reason: str) -> None:
        with self._writing("recording dropped batches") as connection:
            ingest.abandon(connection, batch_range, spool_id, reason)

    # ---------------------------------------------------------------- rollups

    def dirty(self, table: Table, tier: Tier, closed_before: datetime) -> Sequence[datetime]:
        with borrow(self._engine, "reading marks", deadlines.READ) as connection:
            return rollups.dirty(connection, table, tier, closed_before)

    def refresh(self, table: Table, tier: Tier, *, closed_before: datetime, limit: int = 120) -> RefreshResult:
        while True:
            try:
                with self._lent(f"refreshing {table.relation(tier)}", deadlines.REFRESH) as (series, connection):
                    return series.refresh(connection, table, tier, closed_before, limit)
            except TransientStorageError as exc:
                # Out of time: the same buckets again would be, too, and no later one would ever have its turn.
                if exc.sqlstate != QUERY_CANCELED or limit == 1:
                    raise
                limit = max(1, limit // 4)

    def mark(self, table: Table, window: Window) -> int:
        with self._lent(f"marking {table}", deadlines.REFRESH) as (series, connection):
            return series.mark(connection, table, window)

    def verify_tier(self, table: Table, tier: Tier, window: Window, *, against: Tier = Tier.RAW) -> Sequence[Mismatch]:
        with self._lent(f"verifying {table.relation(tier)}", deadlines.VERIFY) as (series, connection):
            return series.verify_tier(connection, table, tier, window, against)

    def verify_ledger(self) -> Sequence[LedgerDay]:
        with borrow(self._engine, "verifying the ledger", deadlines.VERIFY) as connection:
            return retention.ledger_days(connection)

    # ---------------------------------------------------------------- retention

    def horizons(self) -> Sequence[Horizon]:
        with borrow(self._engine, "reading horizons", deadlines.READ) as connection:
            return retention.horizons(connection)

    def partitions(self, table: Table, tier: Tier) -> Sequence[Partition]:
        with self._lent("listing partitions", deadlines.READ) as (series, connection):
            return series.partitions(connection, table, tier)

    def boundary(self, tier: Tier, moment: datetime) -> datetime:
        return self._series.boundary(tier, moment)

    def close_below(self, table: Table, tier: Tier, boundary: datetime) -> None:
        with borrow(self._engine, f"closing {table.relation(tier)}", deadlines.DDL) as connection:
            retention.close_below(connection, table, tier, boundary)

    def drop_below(self, table: Table, tier: Tier, boundary: datetime) -> Sequence[Partition]:
        with self._lent(f"dropping from {table.relation(tier)}", deadlines.DDL) as (series, connection):
            return retention.drop_below(connection, table, tier, boundary, series.drop_before)

    def purge_ledger(self, before: datetime, limit: int = 50_000) -> int:
        with borrow(self._engine, "purging the ledger", deadlines.REFRESH) as connection:
            return retention.purge_ledger(connection, before, limit)

    # ---------------------------------------------------------------- reading

    def query(
        self,
        sql: str,
        parameters: Mapping[str, object] | None = None,
        *,
        types: Mapping[str, type] | None = None,
    ) -> Rows:
        try:
            with self._engine.begin() as connection:
                # Per transaction, so that a pooler may hand each one another server process.
                connection.execute(text("SET TRANSACTION READ ONLY"))
                connection.execute(text(set_local(_READING)))
                answer = connection.execute(text(sql), dict(parameters or {}))
                return Rows(columns=tuple(answer.keys()), rows=[tuple(row) for row in answer])
        except (SQLAlchemyError, UnicodeEncodeError) as exc:
            if sqlstate_of(exc) in UNDEFINED:
                # Of a database without the schema that is what has to be said.
                self.check_schema()
            raise translate(exc, "query") from exc

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        return snapshot(self._engine)

    def arrow_source(self) -> ArrowSource:
        self.require(Capability.ARROW)
        return self._arrow


def _server(connection: psycopg.Connection) -> Server:
    row = connection.execute(
        "SELECT current_setting('server_version_num')::int, version(), e.extversion,"
        " current_setting('timescaledb.license', true)"
        " FROM (SELECT 1) AS one LEFT JOIN pg_extension AS e ON e.extname = 'timescaledb'"
    ).fetchone()
    if row is None:
        raise AssertionError("BUG: a server without a version")
    return Server(
        version=row[0],
        version_text=connection.info.parameter_status("server_version") or str(row[0]),
        wasm="emscripten" in row[1].lower(),
        timescaledb=row[2],
        license=row[3] if row[2] else None,
        provisioned=provisioned_for(connection),
    )


_: type[Store] = PgStore
