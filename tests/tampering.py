"""
Doing to a database what the code never does, on every engine.
"""

from __future__ import annotations

import re
from datetime import datetime

from sqlalchemy import bindparam, text

from storage.layout import parent
from storage.model import ROLLUPS, Table
from storage.models import Moment
from storage.store import Store
from storage.transactions import writing


def tamper(store: Store, statement: str, **parameters: object) -> None:
    """
    Run *statement* with ``:name`` parameters; moments are bound as the engine keeps them.

    A materialised tier has the same name everywhere. TimescaleDB keeps its rows in a table below the view of that name.
    """
    if store.engine_name == "timescaledb":
        for table, tier in [(table, tier) for table in Table for tier in ROLLUPS]:
            name = rf"\b{parent(table, tier)}\b"
            if re.search(name, statement):
                statement = re.sub(name, _materialisation(store, parent(table, tier)), statement)
    moments = [
        bindparam(name, value, type_=Moment) for name, value in parameters.items() if isinstance(value, datetime)
    ]
    others = {name: value for name, value in parameters.items() if not isinstance(value, datetime)}
    with writing(store.engine).begin() as connection:
        connection.execute(text(statement).bindparams(*moments), others)


def _materialisation(store: Store, aggregate: str) -> str:
    found = store.query(
        "SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)"
        " FROM timescaledb_information.continuous_aggregates WHERE view_name = :aggregate",
        {"aggregate": aggregate},
    ).rows
    return str(found[0][0])


def refuse(store: Store, table: Table, column: str, condition: str) -> str:
    """Have the database refuse rows of *table* whose *column* is as in *condition*; return the SQLSTATE that it gives."""
    if store.engine_name == "sqlite":
        # A table cannot be given another constraint there.
        tamper(
            store,
            f"CREATE TRIGGER refuse BEFORE INSERT ON {table} WHEN NEW.{column} {condition}"
            " BEGIN SELECT RAISE(ABORT, 'refused'); END",
        )
        return "23000"
    tamper(store, f"ALTER TABLE {table} ADD CHECK (NOT {column} {condition})")
    return "23514"
