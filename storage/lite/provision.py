"""
The time-series half of the schema on SQLite: made, brought up to date, dropped.

Its version is one number in ``provision_version``, beside the engine that it was made for and the identity of this
database. Version 1 makes everything; later versions are steps that turn the version before into them. All steps that
are needed run in one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from types import MappingProxyType
from uuid import uuid4

from storage.errors import SchemaMismatch
from storage.layout import TIER_CODE, key_columns, parent
from storage.lite.layout import names, step_us, view
from storage.model import ROLLUPS, Table, Tier
from storage.queries import load
from storage.versions import insist_version

ENGINE = "sqlite"

_PROVISION = "sql/sqlite/provision.sql"
_LEDGER = (
    "marks",
    "marks_bucket",
    "horizons",
    "horizons_rows",
    "ingest_batches",
    "ingest_batches_age",
    "ingest_batch_days",
    "ingest_batch_days_day",
    "ingest_rejections",
    "quarantine",
)
_LEDGER_TABLES = (
    "marks",
    "horizons",
    "ingest_batches",
    "ingest_batch_days",
    "ingest_rejections",
    "quarantine",
    "provision_version",
)

#: Views of people and reports, in the order in which they are made.
_VIEWS = "sql/sqlite/views.sql"
_PUBLIC_VIEWS = ("observation", "fleet_health", "incidents")
#: Public view to the tier that it counts checks in.
_AVAILABILITY_VIEWS: Mapping[str, Tier] = MappingProxyType({"availability": Tier.H1, "availability_1d": Tier.D1})
#: Public view to the rollup that it reads.
_LOAD_VIEWS: Mapping[str, str] = MappingProxyType(
    {"system_load": "system_metrics_1m", "system_load_1h": "system_metrics_1h"}
)
#: Files whose every statement makes one public view of the same name: of the time series as people read them, and of
#: agents' work. In the order in which they are made.
_VIEW_FILES = ("sql/sqlite/series_views.sql", "sql/sqlite/work_views.sql")


def _statement(name: str, **parts: str) -> str:
    return load("storage", _PROVISION)[name].format(**parts)


def series_table(table: Table) -> str:
    """Return the table that says which series of *table* have raw rows."""
    return f"{table.value}_series"


def _first(connection: sqlite3.Connection) -> None:
    """Make everything of version 1."""
    for name in _LEDGER:
        connection.execute(_statement(name))
    for table in Table:
        _raw(connection, table)
        for tier in ROLLUPS:
            _materialised(connection, table, tier)
            connection.execute(view(table, tier))
    _make_views(connection)


def _renew_views(connection: sqlite3.Connection) -> None:
    """Tell sessions of clients from those of collectors; make views of the time series and of agents' work."""
    _drop_views(connection)
    _make_views(connection)


def _make_views(connection: sqlite3.Connection) -> None:
    """Make the public views."""
    for name in _PUBLIC_VIEWS:
        connection.execute(load("storage", _VIEWS)[name])
    for name, tier in _AVAILABILITY_VIEWS.items():
        connection.execute(
            load("storage", _VIEWS)["availability"].format(
                view=name, rollup=Table.HEALTH.relation(tier), step=step_us(tier), tier=TIER_CODE[tier]
            )
        )
    for name, rollup in _LOAD_VIEWS.items():
        connection.execute(load("storage", _VIEWS)["system_load"].format(view=name, rollup=rollup))
    for file in _VIEW_FILES:
        for made in load("storage", file).values():
            connection.execute(made)


def _drop_views(connection: sqlite3.Connection) -> None:
    """Drop the public views."""
    further = (name for file in _VIEW_FILES for name in load("storage", file))
    for name in reversed((*_PUBLIC_VIEWS, *_AVAILABILITY_VIEWS, *_LOAD_VIEWS, *further)):
        connection.execute(f"DROP VIEW IF EXISTS {name}")


def _raw(connection: sqlite3.Connection, table: Table) -> None:
    name, key = table.value, names(key_columns(table))
    if table is Table.HEALTH:
        connection.execute(_statement("health_checks"))
    else:
        connection.execute(_statement("samples", table=name, entity=table.entity))
    connection.execute(_statement("entity_index", table=name, key=key))
    connection.execute(_statement("time_index", table=name, time="ts"))
    columns = ",\n    ".join(f"{column} INTEGER NOT NULL" for column in key_columns(table))
    connection.execute(_statement("series", table=name, columns=columns, key=key))


def _materialised(connection: sqlite3.Connection, table: Table, tier: Tier) -> None:
    relation = parent(table, tier)
    if table is Table.HEALTH:
        storage = "STRICT, WITHOUT ROWID" if tier is Tier.M1 else "STRICT"
        connection.execute(_statement("health_mat", table=relation, storage=storage))
    else:
        connection.execute(_statement("samples_mat", table=relation, entity=table.entity))
    connection.execute(_statement("time_index", table=relation, time="bucket"))


#: Step number n turns version n - 1 into version n.
STEPS: Mapping[int, Callable[[sqlite3.Connection], None]] = MappingProxyType({1: _first, 2: _renew_views})
VERSION = max(STEPS)


def _found(connection: sqlite3.Connection) -> tuple[int, str]:
    """Return the version that the database is at and the engine it was made for; 0 when nothing is provisioned."""
    there = connection.execute(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'provision_version'"
    ).fetchone()
    row = connection.execute("SELECT version, engine FROM provision_version").fetchone() if there[0] else None
    return (int(row[0]), str(row[1])) if row else (0, ENGINE)


def version(connection: sqlite3.Connection) -> int:
    """Return the version that the database is at, 0 when nothing is provisioned."""
    return _found(connection)[0]


def provision(connection: sqlite3.Connection) -> None:
    """
    Bring the time-series half up to this code's version; does nothing when it is there.

    Raises:
        SchemaMismatch: The database was provisioned by newer code, or for another engine.
    """
    found = check(connection, upgrading=True)
    if found == VERSION:
        return
    connection.execute(_statement("version_table"))
    for step in range(found + 1, VERSION + 1):
        STEPS[step](connection)
    connection.execute(
        # The default of a rowid is the next free one, whatever the table says.
        "INSERT INTO provision_version (only_row, version, engine, identity) VALUES (1, ?, ?, ?)"
        " ON CONFLICT (only_row) DO UPDATE SET version = excluded.version",
        (VERSION, ENGINE, str(uuid4())),
    )


def check(connection: sqlite3.Connection, *, upgrading: bool = False) -> int:
    """
    Insist that the time series of the database suit this code; return their version.

    Raises:
        SchemaMismatch: They do not; older versions pass when *upgrading*.
    """
    found, engine = _found(connection)
    if engine != ENGINE:
        raise SchemaMismatch(
            f"time series were made for engine {engine}, code uses {ENGINE}: move to another database",
            found=engine,
            needed=ENGINE,
        )
    insist_version(found, VERSION, upgrading=upgrading)
    return found


def drop(connection: sqlite3.Connection) -> None:
    """Drop the time-series half, data included."""
    _drop_views(connection)
    for table in Table:
        for tier in reversed(ROLLUPS):
            connection.execute(f"DROP VIEW IF EXISTS {table.relation(tier)}")
            connection.execute(f"DROP TABLE IF EXISTS {parent(table, tier)}")
        connection.execute(f"DROP TABLE IF EXISTS {table.value}")
        connection.execute(f"DROP TABLE IF EXISTS {series_table(table)}")
    for name in _LEDGER_TABLES:
        connection.execute(f"DROP TABLE IF EXISTS {name}")
