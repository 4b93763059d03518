"""
The time-series half of the schema on plain PostgreSQL: made, brought up to date, dropped.

Its version is one number in ``provision_version``. Version 1 makes everything; later versions add a step to ``STEPS``
that turns the version before into them. All steps that are needed run in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from psycopg import sql

from storage.errors import SchemaMismatch
from storage.model import ROLLUPS, Table, Tier
from storage.pg.layout import parent, view
from storage.pg.partitions import partition_lock
from storage.queries import load

_PROVISION = "sql/postgresql/provision.sql"

#: Statements of version 1 that make the tables and functions, in order.
_FUNCTIONS = (
    "latency_bin",
    "latency_bins_pack",
    "latency_bins_add",
    "latency_bins_merge",
    "latency_quantile",
)
#: Views of people and reports, in the order in which they are made; functions that they share come first.
_VIEWS = "sql/postgresql/views.sql"
_VIEW_FUNCTIONS = ("slots_between", "lost_between")
_PUBLIC_VIEWS = ("observation", "fleet_health", "availability", "incidents")
#: Public view to the rollup that it reads.
_LOAD_VIEWS = {"system_load": "system_metrics_1m", "system_load_1h": "system_metrics_1h"}
_LEDGER = (
    "marks",
    "marks_bucket",
    "horizons",
    "horizons_rows",
    "ingest_batches",
    "ingest_batches_age",
    "ingest_batch_days",
    "ingest_rejections",
    "quarantine",
)


def _statement(name: str, **parts: sql.Composable) -> sql.Composed:
    return sql.SQL(load("storage", _PROVISION)[name]).format(**parts)


def _first(connection: psycopg.Connection) -> None:
    """Make everything of version 1."""
    for name in (*_LEDGER, *_FUNCTIONS):
        # Function bodies hold braces of their own: only statements with placeholders are formatted.
        connection.execute(load("storage", _PROVISION)[name])
    for table in Table:
        _raw(connection, table)
        for tier in ROLLUPS:
            _materialised(connection, table, tier)
            connection.execute(view(table, tier))
    for name in (*_VIEW_FUNCTIONS, *_PUBLIC_VIEWS):
        connection.execute(load("storage", _VIEWS)[name])
    for name, rollup in _LOAD_VIEWS.items():
        statement = sql.SQL(load("storage", _VIEWS)["system_load"])
        connection.execute(statement.format(view=sql.Identifier(name), rollup=sql.Identifier(rollup)))


def _raw(connection: psycopg.Connection, table: Table) -> None:
    name, entity = sql.Identifier(table.value), sql.Identifier(table.entity)
    if table is Table.HEALTH:
        connection.execute(_statement("health_checks"))
        connection.execute(_statement("health_checks_entity"))
    else:
        connection.execute(_statement("samples", table=name, entity=entity))
        index = sql.Identifier(f"{table.value}_entity")
        connection.execute(_statement("samples_entity", index=index, table=name, entity=entity))
    brin = sql.Identifier(f"{table.value}_brin")
    connection.execute(_statement("brin", index=brin, table=name, time=sql.Identifier("ts")))


def _materialised(connection: psycopg.Connection, table: Table, tier: Tier) -> None:
    relation = parent(table, tier)
    shape = "health_mat" if table is Table.HEALTH else "samples_mat"
    connection.execute(_statement(shape, table=sql.Identifier(relation), entity=sql.Identifier(table.entity)))
    connection.execute(
        _statement(
            "brin",
            index=sql.Identifier(f"{relation}_brin"),
            table=sql.Identifier(relation),
            time=sql.Identifier("bucket"),
        )
    )


#: Step number n turns version n - 1 into version n.
STEPS: dict[int, Callable[[psycopg.Connection], None]] = {1: _first}
VERSION = max(STEPS)


def version(connection: psycopg.Connection) -> int:
    """Return the version that the database is at, 0 when nothing is provisioned."""
    if connection.execute("SELECT to_regclass('provision_version')").fetchone() == (None,):
        return 0
    row = connection.execute("SELECT version FROM provision_version").fetchone()
    return int(row[0]) if row else 0


def provision(connection: psycopg.Connection) -> None:
    """
    Bring the time-series half up to this code's version; does nothing when it is there.

    Raises:
        SchemaMismatch: The database was provisioned by newer code.
    """
    with partition_lock(connection), connection.transaction():
        found = version(connection)
        check(found, upgrading=True)
        if found == VERSION:
            return
        connection.execute(_statement("version_table"))
        for step in range(found + 1, VERSION + 1):
            STEPS[step](connection)
        connection.execute(
            "INSERT INTO provision_version (version) VALUES (%s)"
            " ON CONFLICT (only_row) DO UPDATE SET version = excluded.version",
            (VERSION,),
        )


def check(found: int, *, upgrading: bool = False) -> None:
    """
    Insist that version *found* suits this code.

    Raises:
        SchemaMismatch: It does not; older versions pass when *upgrading*.
    """
    if found > VERSION:
        raise SchemaMismatch(
            f"time series are at version {found}, code knows up to {VERSION}: install the newer fleetpulse",
            found=str(found),
            needed=str(VERSION),
        )
    if found < VERSION and not upgrading:
        state = f"are at version {found}" if found else "are not provisioned"
        raise SchemaMismatch(
            f'time series {state}, code needs version {VERSION}: run "fleetpulse db upgrade"',
            found=str(found),
            needed=str(VERSION),
        )


def drop(connection: psycopg.Connection) -> None:
    """Drop the time-series half, data included."""
    with partition_lock(connection), connection.transaction():
        for name in reversed((*_PUBLIC_VIEWS, *_LOAD_VIEWS)):
            connection.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(sql.Identifier(name)))
        for name in reversed(_VIEW_FUNCTIONS):
            connection.execute(sql.SQL("DROP FUNCTION IF EXISTS {}").format(sql.Identifier(name)))
        for table in Table:
            for tier in reversed(ROLLUPS):
                connection.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(sql.Identifier(table.relation(tier))))
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(parent(table, tier))))
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(table.value)))
        connection.execute(
            "DROP TABLE IF EXISTS marks, horizons, ingest_batches, ingest_batch_days, ingest_rejections, quarantine,"
            " provision_version"
        )
        connection.execute("DROP AGGREGATE IF EXISTS latency_bins_merge(int[])")
        for function in (
            "latency_bins_add(int[], int[])",
            "latency_bins_pack(int[])",
            "latency_quantile(int[], float8, float8)",
            "latency_bin(float8)",
        ):
            connection.execute(sql.SQL(f"DROP FUNCTION IF EXISTS {function}"))
