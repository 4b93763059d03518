"""
The ``timescaledb`` engine: hypertables, hierarchical continuous aggregates in real time, columnstore.

Rollups are refreshed by the server's own policies, which go on while the daemon is down. Marks are kept all the same,
as on every engine: a mark goes once its bucket has been refreshed by exact range, bottom-up. Where a policy was there
first that is a look at an empty log of changes; what a policy missed, because it came late, or because the server had
no worker to spare, is computed then and not lost. Readers see through nothing: a late row below a tier's watermark
shows with the refresh of its bucket, not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import errors, sql

from storage import deadlines
from storage.errors import CapabilityMissing
from storage.layout import TABLE_CODE, TIER_CODE, key_columns, parent, rollup_columns
from storage.model import ROLLUPS, Table, Tier, Window, aware, floor
from storage.pg import policies, rollups
from storage.pg.connection import insist_direct, set_deadline
from storage.pg.layout import aggregated, interval, moment, view
from storage.pg.partitions import partition_lock
from storage.pg.provision import (
    Steps,
    check,
    drop_rest,
    drop_views,
    insist_engine,
    make_functions,
    make_ledger,
    make_views,
    make_views_and_record,
    provision,
    version,
)
from storage.pg.provision import statement as shared_statement
from storage.pg.series import Series, Server
from storage.pg.sinks import TableCopy
from storage.queries import load
from storage.store import Capability, Mismatch, Partition, RefreshResult

#: Oldest extension: 2.26.3 mended duplicate rows of concurrent refreshes, 2.28 brought drops without invalidations.
MINIMUM_EXTENSION = (2, 28, 2)
#: Oldest extension that was compiled to WebAssembly; the statements are tested on it, data is not kept in it.
MINIMUM_WASM = (2, 23, 0)
MINIMUM_SERVER = 160_000
#: Since when chunks can be dropped without a word to the aggregates above.
SILENT_DROP = (2, 28, 0)

#: Width of the chunks: days where a tier is cut by days, some forty to a hundred chunks at the most elsewhere.
CHUNK: Mapping[Tier, timedelta] = {
    Tier.RAW: timedelta(days=1),
    Tier.M1: timedelta(days=1),
    Tier.H1: timedelta(days=30),
    Tier.D1: timedelta(days=360),
}

_CAPABILITIES = frozenset(
    {Capability.COPY, Capability.SEVERAL_WRITERS, Capability.COLUMNSTORE, Capability.SERVER_JOBS, Capability.ARROW}
)
_PROVISION = "sql/timescaledb/provision.sql"
_JOBS = "sql/timescaledb/jobs.sql"


class TimescaledbSeries:
    """Time series on TimescaleDB, community edition."""

    name = "timescaledb"
    #: The policies of the 1m tier come every minute and take the minute before last; after three, it was theirs to do.
    grace = timedelta(minutes=3)
    sink = TableCopy()

    def __init__(self, server: Server) -> None:
        self._server = server
        self._extension = _numbers(server.timescaledb or "0")
        lacking = {Capability.SEVERAL_WRITERS, Capability.SERVER_JOBS} if server.wasm else set()
        self.capabilities = _CAPABILITIES - lacking

    def insist(self) -> None:
        server, feature = self._server, "engine timescaledb"
        otherwise = 'or set engine = "postgresql", which does without'
        if server.timescaledb is None:
            raise CapabilityMissing(
                feature,
                found=f"PostgreSQL {server.version_text} without the extension in this database",
                needed=f'extension timescaledb: run "CREATE EXTENSION timescaledb", {otherwise}',
            )
        lowest = MINIMUM_WASM if server.wasm else MINIMUM_EXTENSION
        if self._extension < lowest:
            raise CapabilityMissing(
                feature,
                found=f"TimescaleDB {server.timescaledb}",
                needed=f"TimescaleDB {'.'.join(map(str, lowest))} or later: install it and run "
                f'"ALTER EXTENSION timescaledb UPDATE", {otherwise}',
            )
        if server.version < MINIMUM_SERVER:
            raise CapabilityMissing(
                feature,
                found=f"PostgreSQL {server.version_text}",
                needed=f"PostgreSQL {MINIMUM_SERVER // 10_000} or later, {otherwise}",
            )
        if server.license != "timescale":
            raise CapabilityMissing(
                feature,
                found=f"TimescaleDB {server.timescaledb} with license {server.license}",
                needed="the community edition, timescaledb.license = 'timescale' (continuous aggregates, policies and "
                f"columnstore are not in the Apache one), {otherwise}",
            )

    def product(self) -> str:
        wasm = " (WebAssembly)" if self._server.wasm else ""
        return f"PostgreSQL {self._server.version_text} with TimescaleDB {self._server.timescaledb}{wasm}"

    def version(self, connection: psycopg.Connection) -> tuple[int, int]:
        insist_engine(connection, self.name)
        return version(connection), max(STEPS)

    def check(self, connection: psycopg.Connection) -> None:
        check(connection, self.name, STEPS)

    def provision(self, connection: psycopg.Connection) -> None:
        provision(connection, self.name, STEPS)

    def drop(self, connection: psycopg.Connection) -> None:
        with partition_lock(connection), connection.transaction():
            drop_views(connection)
            for table in Table:
                for tier in reversed(ROLLUPS):
                    connection.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(sql.Identifier(table.relation(tier))))
                    aggregate = sql.Identifier(parent(table, tier))
                    connection.execute(sql.SQL("DROP MATERIALIZED VIEW IF EXISTS {}").format(aggregate))
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(table.value)))
            drop_rest(connection)

    def audit(self, connection: psycopg.Connection, keep: Mapping[Tier, timedelta | None]) -> Sequence[str]:
        return policies.audit(connection, keep)

    def ensure_partitions(self, connection: psycopg.Connection, window: Window) -> int:
        # A chunk is made by its first row.
        return 0

    def refresh(
        self, connection: psycopg.Connection, table: Table, tier: Tier, closed_before: datetime, limit: int
    ) -> RefreshResult:
        with rollups.refresh_lock(connection, table) as held:
            if not held:
                return RefreshResult(busy=True)
            insist_direct(connection)
            done = RefreshResult()
            for forced in (True, False):
                buckets = _dirty(connection, table, tier, closed_before, limit - done.buckets, forced=forced)
                for run in rollups.runs_of(buckets, tier):
                    try:
                        done = _add(done, self._refresh_run(connection, table, tier, run, forced=forced))
                    except (errors.LockNotAvailable, errors.SerializationFailure):
                        # A policy is at it, or a chunk is being converted: the marks stay, the next round comes back.
                        return RefreshResult(buckets=done.buckets, rows=done.rows, marks=done.marks, busy=True)
            return done

    def _refresh_run(
        self, connection: psycopg.Connection, table: Table, tier: Tier, run: Window, *, forced: bool
    ) -> RefreshResult:
        """
        Refresh the adjacent buckets of *run*, then take away the marks that were there before it.

        A mark that comes meanwhile is not among them: its rows may have come too late for the refresh.
        """
        marks = connection.execute(
            "SELECT mark_id, bucket FROM marks"
            " WHERE tbl = %s AND tier = %s AND bucket >= %s AND bucket < %s AND forced <= %s",
            (TABLE_CODE[table], TIER_CODE[tier], run.start, run.end, forced),
        ).fetchall()
        _compute(connection, table, tier, run, forced=forced)
        row = connection.execute(
            sql.SQL("SELECT count(*) FROM {} WHERE bucket >= {} AND bucket < {}").format(
                sql.Identifier(parent(table, tier)), moment(run.start), moment(run.end)
            )
        ).fetchone()
        buckets = sorted({bucket for _, bucket in marks})
        with connection.transaction():
            rollups.pass_on(connection, table, tier, buckets)
            connection.execute("DELETE FROM marks WHERE mark_id = ANY(%s)", ([mark for mark, _ in marks],))
        return RefreshResult(buckets=len(buckets), rows=row[0] if row else 0, marks=len(marks))

    def mark(self, connection: psycopg.Connection, table: Table, window: Window) -> int:
        return rollups.mark(connection, table, window, forced=True)

    def verify_tier(
        self, connection: psycopg.Connection, table: Table, tier: Tier, window: Window, against: Tier
    ) -> Sequence[Mismatch]:
        found: list[Mismatch] = []
        # A plan may know a later watermark than its snapshot has rows for: a finding counts when it is found twice.
        for _ in range(2):
            found = rollups.verify_tier(connection, table, tier, window, against, shown=_shown, skip_marked=True)
            if not found:
                break
        return found

    def partitions(self, connection: psycopg.Connection, table: Table, tier: Tier) -> Sequence[Partition]:
        statement = sql.SQL(load("storage", _JOBS)["chunks"]).format(relation=sql.Literal(parent(table, tier)))
        rows = connection.execute(statement)
        return [
            Partition(table=table, tier=tier, name=name, window=Window(start, end), size_bytes=size)
            for name, start, end, size in rows
        ]

    def boundary(self, tier: Tier, moment: datetime) -> datetime:
        return floor(aware(moment).astimezone(UTC), CHUNK[tier])

    def drop_before(
        self, connection: psycopg.Connection, table: Table, tier: Tier, boundary: datetime
    ) -> Sequence[Partition]:
        gone = [part for part in self.partitions(connection, table, tier) if part.window.end <= boundary]
        if not gone:
            return []
        above = tier.coarser
        if above is not None:
            # The server notes of a transaction from which to which row it reached: the log may name buckets that no
            # mark does. What is left of it below the boundary would be computed by the next refresh that covers it,
            # from nothing then.
            set_deadline(connection, deadlines.REFRESH)
            for part in gone:
                _compute(connection, table, above, part.window)
            set_deadline(connection, deadlines.DDL)
        with connection.transaction():
            if self._extension >= SILENT_DROP:
                # Otherwise the aggregates above are told that the range has changed, and the next refresh that covers
                # it computes them from nothing.
                connection.execute("SET LOCAL timescaledb.skip_cagg_invalidation = on")
            connection.execute(
                sql.SQL("SELECT drop_chunks({}, older_than => {})").format(
                    sql.Literal(parent(table, tier)), moment(boundary)
                )
            )
        return gone


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, whatever word comes behind them."""
    return tuple(int(part) for part in version.partition("-")[0].split("."))


def _dirty(
    connection: psycopg.Connection, table: Table, tier: Tier, closed_before: datetime, limit: int, *, forced: bool
) -> list[datetime]:
    rows = connection.execute(
        "SELECT DISTINCT bucket FROM marks"
        " WHERE tbl = %s AND tier = %s AND bucket <= %s AND forced = %s ORDER BY bucket LIMIT %s",
        (TABLE_CODE[table], TIER_CODE[tier], closed_before - tier.step, forced, limit),
    )
    return [row[0] for row in rows]


def _compute(connection: psycopg.Connection, table: Table, tier: Tier, window: Window, *, forced: bool = False) -> None:
    """Have the server compute what its log of changes names within *window*, or all of it by force."""
    # Rows of a compressed chunk are decompressed to be replaced: the limit is meant for clients, and a late row must
    # not be stopped by it.
    connection.execute("SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0")
    connection.execute(
        sql.SQL("CALL refresh_continuous_aggregate({}, {}, {}, force => {})").format(
            sql.Literal(parent(table, tier)), moment(window.start), moment(window.end), sql.Literal(forced)
        )
    )


def _add(one: RefreshResult, other: RefreshResult) -> RefreshResult:
    return RefreshResult(buckets=one.buckets + other.buckets, rows=one.rows + other.rows, marks=one.marks + other.marks)


def _shown(table: Table, tier: Tier, start: sql.Composable, end: sql.Composable) -> sql.Composed:
    """Return the SELECT of what readers see of *tier* in ``[start, end)``."""
    return sql.SQL("SELECT {} FROM {} AS m WHERE m.bucket >= {} AND m.bucket < {}").format(
        sql.SQL(", ").join(sql.Identifier("m", name) for name in rollup_columns(table)),
        sql.Identifier(parent(table, tier)),
        start,
        end,
    )


# ---------------------------------------------------------------- provisioning


def _statement(name: str, **parts: sql.Composable) -> sql.Composed:
    return sql.SQL(load("storage", _PROVISION)[name]).format(**parts)


def _first(connection: psycopg.Connection) -> None:
    """Make everything of version 1."""
    connection.execute(load("storage", _PROVISION)["marks"])
    connection.execute(shared_statement("marks_bucket"))
    make_ledger(connection)
    make_functions(connection)
    for table in Table:
        _raw(connection, table)
        for tier in ROLLUPS:
            _aggregate(connection, table, tier)
            connection.execute(view(table, tier, sql.Identifier(parent(table, tier))))
    make_views(connection)


#: Step number n turns version n - 1 into version n.
STEPS: Steps = {1: _first, 2: make_views_and_record}


def _raw(connection: psycopg.Connection, table: Table) -> None:
    name, entity = sql.Identifier(table.value), sql.Identifier(table.entity)
    if table is Table.HEALTH:
        connection.execute(load("storage", _PROVISION)["health_checks"])
        connection.execute(shared_statement("health_checks_entity"))
    else:
        connection.execute(
            _statement("samples", table=name, entity=entity, segmentby=sql.Literal(", ".join(key_columns(table))))
        )
        index = sql.Identifier(f"{table.value}_entity")
        connection.execute(shared_statement("samples_entity", index=index, table=name, entity=entity))
    brin = sql.Identifier(f"{table.value}_brin")
    connection.execute(shared_statement("brin", index=brin, table=name, time=sql.Identifier("ts")))
    _columnstore_policy(connection, table, Tier.RAW)


def _aggregate(connection: psycopg.Connection, table: Table, tier: Tier) -> None:
    name, below = parent(table, tier), tier.finer
    aggregate, time = sql.Identifier(name), sql.Identifier("r", "ts" if below is Tier.RAW else "bucket")
    computed = aggregated(
        table,
        below,
        sql.Identifier(parent(table, below)),
        bucket=sql.SQL("time_bucket({}, {})").format(interval(tier.step), time),
        # By way of a time without a zone: the epoch of one with it depends on settings as far as the server knows.
        epoch=sql.SQL("date_part('epoch', {} AT TIME ZONE 'UTC')").format(time),
        within=sql.SQL("true"),
    )
    keys = key_columns(table)
    connection.execute(_statement("aggregate", aggregate=aggregate, computed=computed))
    connection.execute(_statement("aggregate_chunks", aggregate=sql.Literal(name), interval=interval(CHUNK[tier])))
    connection.execute(
        _statement(
            "aggregate_index",
            index=sql.Identifier(f"{name}_entity"),
            aggregate=aggregate,
            keys=sql.SQL(", ").join(map(sql.Identifier, keys)),
        )
    )
    connection.execute(_statement("aggregate_columnstore", aggregate=aggregate, segmentby=sql.Literal(", ".join(keys))))
    policy = policies.REFRESH[tier]
    connection.execute(
        _statement(
            "add_refresh_policy",
            aggregate=sql.Literal(name),
            reach=interval(policy.reach),
            delay=interval(policy.delay),
            every=interval(policy.every),
        )
    )
    _columnstore_policy(connection, table, tier)


def _columnstore_policy(connection: psycopg.Connection, table: Table, tier: Tier) -> None:
    relation = sql.Literal(parent(table, tier))
    connection.execute(_statement("drop_columnstore_policy", relation=relation))
    connection.execute(
        _statement("add_columnstore_policy", relation=relation, after=interval(policies.COLUMNSTORE_AFTER[tier]))
    )


_: type[Series] = TimescaledbSeries
