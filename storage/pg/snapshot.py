"""
One moment of a server's database, read row by row or by Arrow's own driver.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

import psycopg
from psycopg import sql
from sqlalchemy import Engine
from sqlalchemy.engine import URL

from storage import deadlines
from storage.model import aware
from storage.pg.connection import SESSION, borrow, connect_arguments, set_local
from storage.sqlstate import translate
from storage.store import ArrowSource, Rows, Snapshot

#: Rows of one block: a few megabytes at the most.
BLOCK_ROWS = 10_000
#: Rows of a day are sorted in the server's memory or on its disk, never in ours. One sort at a time: it may have more
#: than the 4 MB of a server that nobody has tuned.
SORT_MEMORY = "64MB"

#: A parameter, not a cast (``x::int``).
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)\b(?!:)")

#: What the transaction of a snapshot begins with; settings that end with it, so that a pooler may stand in between.
_SETTINGS = (
    *SESSION,
    f"statement_timeout = '{deadlines.EXPORT.statement_ms}'",
    f"lock_timeout = '{deadlines.EXPORT.lock_ms}'",
    f"work_mem = '{SORT_MEMORY}'",
)
_LEVEL = "ISOLATION LEVEL REPEATABLE READ READ ONLY"


def render(statement: str, parameters: Mapping[str, object]) -> str:
    """
    Return *statement* with its ``:name`` parameters as literals.

    Raises:
        PermanentStorageError: A value cannot be a literal: text with the character NUL, or half of a surrogate pair.
    """

    def literal(found: re.Match[str]) -> str:
        value = parameters[found[1]]
        return sql.Literal(aware(value) if isinstance(value, datetime) else value).as_string(None)

    try:
        return _PARAMETER.sub(literal, statement)
    except (psycopg.Error, UnicodeEncodeError) as exc:
        raise translate(exc, "query") from exc


def arrow_source(url: URL) -> ArrowSource:
    """Return how Arrow's own driver reads the database at *url*."""
    options = {name: str(value) for name, value in connect_arguments().items()}
    address = url.set(drivername="postgresql", query={**options, **url.query})
    return ArrowSource(
        uri=address.render_as_string(hide_password=False),
        begin=(f"SET TRANSACTION {_LEVEL}", set_local(_SETTINGS)),
        render=render,
    )


@contextmanager
def snapshot(engine: Engine) -> Iterator[Snapshot]:
    """Lend one moment of the database of *engine*; see ``Store.snapshot``."""
    with borrow(engine, "reading", deadlines.EXPORT) as connection, connection.transaction():
        connection.execute(f"SET TRANSACTION {_LEVEL}")
        connection.execute(set_local(_SETTINGS))
        yield _Rows(connection)


class _Rows:
    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def read(self, sql: str, parameters: Mapping[str, object] | None = None) -> Iterator[Rows]:
        # A cursor of the server: a plain one would bring the whole answer along.
        with self._connection.cursor(name="fleetpulse_export") as cursor:
            cursor.execute(render(sql, parameters or {}).encode())
            first = True
            while (rows := cursor.fetchmany(BLOCK_ROWS)) or first:
                yield Rows(columns=tuple(column.name for column in cursor.description or ()), rows=rows)
                first = False
