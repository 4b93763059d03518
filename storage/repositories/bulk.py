"""
Many rows in one statement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Table, bindparam, text

from storage.payloads import alike

#: Values that one statement takes: SQLite allows 32,766, but thousands of rows go in twice as fast by a thousand values at a
#: time, which is also what a compiled statement is kept for.
_MAX_PARAMETERS = 1_000


def insert_alike(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, returning: Sequence[str] = ()
) -> list[Row[Any]]:
    """
    Insert rows that have most of their values in common.

    What all have in common is handed over once. SQLAlchemy hands it over with every row, and the driver takes longer to
    read a statement with 1,400 places for values (100 agents: 10 ms) than the server to carry it out.

    Args:
        rows: Each with the same columns.

    Returns:
        The columns *returning* of each row, in no order.
    """
    if len(rows) <= 1:
        return [row for each in rows for row in _insert_one(connection, table, each, returning)]
    first = rows[0]
    common = [name for name, value in first.items() if all(alike(row[name], value) for row in rows)]
    # Something has to tell the rows apart, or there would be one.
    own = [name for name in first if name not in common] or [common.pop()]
    found: list[Row[Any]] = []
    step = (_MAX_PARAMETERS - len(common)) // len(own)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        values = {f"{name}_{place}": row[name] for place, row in enumerate(part) for name in own}
        typed = [
            *(bindparam(name, first[name], type_=table.c[name].type) for name in common),
            *(bindparam(f"{name}_{place}", type_=table.c[name].type) for place in range(len(part)) for name in own),
        ]
        answer = connection.execute(
            text(_statement(table, common, own, len(part), returning)).bindparams(*typed), values
        )
        found.extend(answer if returning else ())
    return found


def _insert_one(
    connection: Connection, table: Table, row: Mapping[str, Any], returning: Sequence[str]
) -> Sequence[Row[Any]]:
    answer = connection.execute(table.insert().returning(*(table.c[name] for name in returning)), row)
    return answer.all() if returning else ()


def _statement(table: Table, common: Sequence[str], own: Sequence[str], n: int, returning: Sequence[str]) -> str:
    # SQLite has names for the columns of VALUES in WITH alone.
    lines = ", ".join(f"({', '.join(f':{name}_{place}' for name in own)})" for place in range(n))
    given = ", ".join([*(f"given.{name}" for name in own), *(f":{name}" for name in common)])
    with_values = f"WITH given ({', '.join(own)}) AS (VALUES {lines})"
    insert = f"INSERT INTO {table.name} ({', '.join([*own, *common])}) SELECT {given} FROM given"  # noqa: S608  # our own names
    return f"{with_values} {insert}" + (f" RETURNING {', '.join(returning)}" if returning else "")
