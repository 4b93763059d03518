"""
The ``postgresql`` engine: native range partitions and rollups of our own, exact at every moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import psycopg
from psycopg import sql

from storage.errors import CapabilityMissing
from storage.layout import parent, slice_of
from storage.model import ROLLUPS, Table, Tier, Window
from storage.pg import partitions, rollups
from storage.pg.layout import exact, view
from storage.pg.provision import (
    Steps,
    check,
    drop_rest,
    drop_views,
    insist_engine,
    make_bins_add,
    make_functions,
    make_ledger,
    make_views,
    make_views_and_record,
    provision,
    statement,
    version,
)
from storage.pg.series import Series, Server
from storage.pg.sinks import LeafCopy
from storage.store import Capability, Mismatch, Partition, RefreshResult

#: Oldest server that the statements are written for and tested on.
MINIMUM_VERSION = 150_000


class PostgresqlSeries:
    """Time series on PostgreSQL 15 or later, whether TimescaleDB is there or not."""

    name = "postgresql"
    capabilities = frozenset({Capability.EXACT_VIEWS, Capability.COPY, Capability.SEVERAL_WRITERS, Capability.ARROW})
    sink = LeafCopy()
    grace = timedelta(seconds=10)

    def __init__(self, server: Server) -> None:
        self._server = server

    def insist(self) -> None:
        if self._server.version < MINIMUM_VERSION:
            raise CapabilityMissing(
                "engine postgresql",
                found=f"PostgreSQL {self._server.version_text}",
                needed=f"PostgreSQL {MINIMUM_VERSION // 10_000} or later",
            )

    def product(self) -> str:
        return f"PostgreSQL {self._server.version_text}"

    def version(self, connection: psycopg.Connection) -> tuple[int, int]:
        insist_engine(connection, self.name)
        return version(connection), max(STEPS)

    def check(self, connection: psycopg.Connection) -> None:
        check(connection, self.name, STEPS)

    def provision(self, connection: psycopg.Connection) -> None:
        provision(connection, self.name, STEPS)

    def drop(self, connection: psycopg.Connection) -> None:
        with partitions.partition_lock(connection), connection.transaction():
            drop_views(connection)
            connection.execute("DROP FUNCTION IF EXISTS make_partition(smallint, smallint, timestamptz)")
            for table in Table:
                for tier in reversed(ROLLUPS):
                    connection.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(sql.Identifier(table.relation(tier))))
                    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(parent(table, tier))))
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(table.value)))
            drop_rest(connection)

    def audit(self, connection: psycopg.Connection, keep: Mapping[Tier, timedelta | None]) -> Sequence[str]:
        # The server has no jobs of its own here.
        return []

    def ensure_partitions(self, connection: psycopg.Connection, window: Window) -> int:
        return sum(partitions.ensure(connection, table, list(Tier), window) for table in Table)

    def refresh(
        self, connection: psycopg.Connection, table: Table, tier: Tier, closed_before: datetime, limit: int
    ) -> RefreshResult:
        return rollups.refresh(connection, table, tier, closed_before, limit)

    def mark(self, connection: psycopg.Connection, table: Table, window: Window) -> int:
        return rollups.mark(connection, table, window)

    def verify_tier(
        self, connection: psycopg.Connection, table: Table, tier: Tier, window: Window, against: Tier
    ) -> Sequence[Mismatch]:
        return rollups.verify_tier(connection, table, tier, window, against)

    def partitions(self, connection: psycopg.Connection, table: Table, tier: Tier) -> Sequence[Partition]:
        return partitions.listed(connection, table, tier)

    def boundary(self, tier: Tier, moment: datetime) -> datetime:
        return slice_of(Table.HEALTH, tier, moment).window.start

    def drop_before(
        self, connection: psycopg.Connection, table: Table, tier: Tier, boundary: datetime
    ) -> Sequence[Partition]:
        return partitions.drop_before(connection, table, tier, boundary)


def _first(connection: psycopg.Connection) -> None:
    """Make everything of version 1."""
    for name in ("marks", "marks_bucket"):
        connection.execute(statement(name))
    make_ledger(connection)
    make_functions(connection)
    for table in Table:
        _raw(connection, table)
        for tier in ROLLUPS:
            _materialised(connection, table, tier)
            rows = sql.SQL("(\n{}\n)").format(exact(table, tier))
            connection.execute(view(table, tier, rows))
    make_views(connection)


def _second(connection: psycopg.Connection) -> None:
    """
    Tell which engine the time series are for; add up latency bins under any ``search_path``; mend a view, add another;
    have partitions made with the owner's rights.
    """
    connection.execute(
        "ALTER TABLE provision_version ADD COLUMN IF NOT EXISTS engine text NOT NULL DEFAULT 'postgresql'"
    )
    connection.execute("ALTER TABLE provision_version ALTER COLUMN engine DROP DEFAULT")
    make_bins_add(connection)
    # The coverage of an hour in which nothing was expected is none, it was 1.
    drop_views(connection)
    make_views(connection)
    partitions.make_function(connection)


#: Step number n turns version n - 1 into version n.
STEPS: Steps = {1: _first, 2: _second, 3: make_views_and_record}


def _raw(connection: psycopg.Connection, table: Table) -> None:
    name, entity = sql.Identifier(table.value), sql.Identifier(table.entity)
    if table is Table.HEALTH:
        connection.execute(statement("health_checks"))
        connection.execute(statement("health_checks_entity"))
    else:
        connection.execute(statement("samples", table=name, entity=entity))
        index = sql.Identifier(f"{table.value}_entity")
        connection.execute(statement("samples_entity", index=index, table=name, entity=entity))
    brin = sql.Identifier(f"{table.value}_brin")
    connection.execute(statement("brin", index=brin, table=name, time=sql.Identifier("ts")))


def _materialised(connection: psycopg.Connection, table: Table, tier: Tier) -> None:
    relation = parent(table, tier)
    shape = "health_mat" if table is Table.HEALTH else "samples_mat"
    connection.execute(statement(shape, table=sql.Identifier(relation), entity=sql.Identifier(table.entity)))
    brin = sql.Identifier(f"{relation}_brin")
    connection.execute(statement("brin", index=brin, table=sql.Identifier(relation), time=sql.Identifier("bucket")))


_: type[Series] = PostgresqlSeries
