"""
The time-series half of the schema on the PostgreSQL family: made, brought up to date, dropped.

Its version is one number in ``provision_version``, beside the engine that it was made for. Version 1 makes everything;
later versions are steps that turn the version before into them. All steps that are needed run in one transaction.
Raw tables and tiers are the engines' own; ledger, horizons, functions and public views are here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import psycopg
from psycopg import sql

from storage.errors import SchemaMismatch
from storage.layout import TIER_CODE
from storage.model import Table, Tier
from storage.pg import record
from storage.pg.layout import current_schema, interval
from storage.pg.partitions import partition_lock
from storage.queries import load
from storage.versions import insist_version

_PROVISION = "sql/postgresql/provision.sql"

_FUNCTIONS = (
    "latency_bin",
    "latency_bins_pack",
    "latency_bins_add",
    "latency_bins_merge",
    "latency_quantile",
)
#: Views of people and reports, in the order in which they are made; functions that they share come first.
_VIEWS = "sql/postgresql/views.sql"
_VIEW_FUNCTIONS = ("slots_between", "lost_between", "seconds_between", "local_day")
_PUBLIC_VIEWS = ("observation", "fleet_health", "incidents")
#: Public view to the tier that it counts checks in, and PostgreSQL's name of a bucket.
_AVAILABILITY_VIEWS = {"availability": (Tier.H1, "hour"), "availability_1d": (Tier.D1, "day")}
#: Public view to the rollup that it reads.
_LOAD_VIEWS = {"system_load": "system_metrics_1m", "system_load_1h": "system_metrics_1h"}
_LEDGER = (
    "horizons",
    "horizons_rows",
    "ingest_batches",
    "ingest_batches_age",
    "ingest_batch_days",
    "ingest_rejections",
    "quarantine",
)

#: Files whose every statement makes one public view of the same name: of the time series as people read them, and of
#: agents' work. In the order in which they are made.
_VIEW_FILES = ("sql/postgresql/series_views.sql", "sql/postgresql/work_views.sql")
_FURTHER_VIEWS = tuple(name for file in _VIEW_FILES for name in load("storage", file))

#: What is made here besides tables, for whoever hands it over or grants it.
VIEWS = frozenset({*_PUBLIC_VIEWS, *_AVAILABILITY_VIEWS, *_LOAD_VIEWS, *_FURTHER_VIEWS})
ROUTINES = frozenset({*_FUNCTIONS, *_VIEW_FUNCTIONS})

#: Step number n turns version n - 1 into version n.
Steps = Mapping[int, Callable[[psycopg.Connection], None]]


def statement(name: str, **parts: sql.Composable) -> sql.Composed:
    """Return a statement of ``sql/postgresql/provision.sql`` with its placeholders filled."""
    return sql.SQL(load("storage", _PROVISION)[name]).format(**parts)


def make_ledger(connection: psycopg.Connection) -> None:
    """Make horizons and ledger."""
    for name in _LEDGER:
        connection.execute(load("storage", _PROVISION)[name])


def make_functions(connection: psycopg.Connection) -> None:
    """Make the functions that rollups are computed with."""
    for name in _FUNCTIONS:
        if name == "latency_bins_add":
            make_bins_add(connection)
        else:
            # Function bodies hold braces of their own: only statements with placeholders are formatted.
            connection.execute(load("storage", _PROVISION)[name])


def make_bins_add(connection: psycopg.Connection) -> None:
    """Make, or make anew, the state transition that adds up latency bins."""
    pack = sql.Identifier(current_schema(connection), "latency_bins_pack")
    connection.execute(statement("latency_bins_add", pack=pack))


def make_views(connection: psycopg.Connection) -> None:
    """
    Make the public views over tiers that are there, and the functions that they share.

    Those that are there are replaced: who may read them stays so.
    """
    for name in (*_VIEW_FUNCTIONS, *_PUBLIC_VIEWS):
        connection.execute(load("storage", _VIEWS)[name])
    for name, (tier, unit) in _AVAILABILITY_VIEWS.items():
        made = sql.SQL(load("storage", _VIEWS)["availability"]).format(
            view=sql.Identifier(name),
            rollup=sql.Identifier(Table.HEALTH.relation(tier)),
            unit=sql.Literal(unit),
            step=interval(tier.step),
            tier=sql.Literal(TIER_CODE[tier]),
        )
        connection.execute(made)
    for name, rollup in _LOAD_VIEWS.items():
        made = sql.SQL(load("storage", _VIEWS)["system_load"]).format(
            view=sql.Identifier(name), rollup=sql.Identifier(rollup)
        )
        connection.execute(made)
    for file in _VIEW_FILES:
        for view in load("storage", file).values():
            connection.execute(view)


def version(connection: psycopg.Connection) -> int:
    """Return the version that the database is at, 0 when nothing is provisioned."""
    if connection.execute("SELECT to_regclass('provision_version')").fetchone() == (None,):
        return 0
    row = connection.execute("SELECT version FROM provision_version").fetchone()
    return int(row[0]) if row else 0


def provisioned_for(connection: psycopg.Connection) -> str | None:
    """Return the engine that the time series were made for, ``None`` when nothing is provisioned."""
    if connection.execute("SELECT to_regclass('provision_version')").fetchone() == (None,):
        return None
    # Through JSON, because the first version had no such column, and one engine.
    row = connection.execute("SELECT coalesce(to_jsonb(v) ->> 'engine', 'postgresql') FROM provision_version AS v")
    found = row.fetchone()
    return str(found[0]) if found else None


def provision(connection: psycopg.Connection, engine: str, steps: Steps) -> None:
    """
    Bring the time-series half up to the last of *steps*; does nothing when it is there.

    Raises:
        SchemaMismatch: The database was provisioned by newer code, or for another engine.
    """
    needed = max(steps)
    with partition_lock(connection), connection.transaction():
        found = version(connection)
        check(connection, engine, steps, upgrading=True)
        if found == needed:
            return
        connection.execute(statement("version_table"))
        for step in range(found + 1, needed + 1):
            steps[step](connection)
        connection.execute(
            "INSERT INTO provision_version (version, engine) VALUES (%s, %s)"
            " ON CONFLICT (only_row) DO UPDATE SET version = excluded.version",
            (needed, engine),
        )


def insist_engine(connection: psycopg.Connection, engine: str) -> None:
    """
    Insist that the time series, where there are any, were made for *engine*.

    Raises:
        SchemaMismatch: They were made for another one.
    """
    made_for = provisioned_for(connection)
    if made_for not in (None, engine):
        raise SchemaMismatch(
            f'time series were made for engine {made_for}, code uses {engine}: set engine = "{made_for}", '
            "or move to another database",
            found=made_for,
            needed=engine,
        )


def check(connection: psycopg.Connection, engine: str, steps: Steps, *, upgrading: bool = False) -> None:
    """
    Insist that the time series of the database suit this code.

    Raises:
        SchemaMismatch: They do not; older versions pass when *upgrading*.
    """
    insist_engine(connection, engine)
    insist_version(version(connection), max(steps), upgrading=upgrading)


def drop_views(connection: psycopg.Connection) -> None:
    """Drop the public views and what they share."""
    for name in reversed((*_PUBLIC_VIEWS, *_AVAILABILITY_VIEWS, *_LOAD_VIEWS, *_FURTHER_VIEWS)):
        connection.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(sql.Identifier(name)))
    for name in reversed(_VIEW_FUNCTIONS):
        connection.execute(sql.SQL("DROP FUNCTION IF EXISTS {}").format(sql.Identifier(name)))


def make_views_and_record(connection: psycopg.Connection) -> None:
    """
    Tell sessions of clients from those of collectors; make views of the time series and of agents' work; have clients
    write batches.
    """
    make_views(connection)
    record.make_function(connection)


def drop_rest(connection: psycopg.Connection) -> None:
    """Drop ledger, marks and functions, after everything that uses them."""
    connection.execute("DROP FUNCTION IF EXISTS record_batch(uuid, bigint, jsonb)")
    connection.execute(
        "DROP TABLE IF EXISTS marks, horizons, ingest_batches, ingest_batch_days, ingest_rejections, quarantine,"
        " provision_version"
    )
    connection.execute("DROP AGGREGATE IF EXISTS latency_bins_merge(int[])")
    functions: Sequence[sql.SQL] = (
        sql.SQL("latency_bins_add(int[], int[])"),
        sql.SQL("latency_bins_pack(int[])"),
        sql.SQL("latency_quantile(int[], float8, float8)"),
        sql.SQL("latency_bin(float8)"),
    )
    for function in functions:
        connection.execute(sql.SQL("DROP FUNCTION IF EXISTS {}").format(function))
