"""
Alembic's environment: runs revisions on the connection that ``storage.schema`` hands over.

Time-series tables belong to ``Store.provision()``; they are left out of every comparison by name. Everything happens
in one transaction that begins with a lock: of two upgrades at once the second waits, and then finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import context
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from storage import work_models  # noqa: F401  # its tables are part of Base.metadata
from storage.errors import PermanentStorageError, TransientStorageError
from storage.models import Base
from storage.schema import COMPARISON, LOCK_KEY, LOCK_WAIT_S, VERSION_TABLE


def run(connection: Connection) -> None:
    """Run the revisions that Alembic has been asked for."""
    is_sqlite = connection.dialect.name == "sqlite"
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        **COMPARISON,
        # SQLite cannot alter a column in place.
        render_as_batch=is_sqlite,
        # Alembic takes it that SQLite's driver ends transactions before DDL; with the connections of this project it
        # does not.
        transactional_ddl=True,
    )
    if not is_sqlite:
        with context.begin_transaction():
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'"))
                # A revision may have to rewrite a table; a deadline meant for queries must not cut it short.
                connection.execute(text("SET LOCAL statement_timeout = 0"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
            _migrate(connection)
        return
    # The lock is the beginning itself: BEGIN IMMEDIATE.
    with _rebuilding_tables(connection), context.begin_transaction():
        broken, ids = _broken_views(connection), _last_ids(connection)
        _migrate(connection)
        _keep_ids(connection, ids)
        _insist_whole(connection, known=broken)


def _migrate(connection: Connection) -> None:
    context.run_migrations()
    if not context.get_context().get_current_heads():
        # Alembic leaves its own table behind at base; an empty schema is what was asked for.
        connection.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))


# ---------------------------------------------------------------- SQLite


@contextmanager
def _rebuilding_tables(connection: Connection) -> Iterator[None]:
    """
    Let SQLite replace a table by a copy of another shape, which is how it alters one.

    Dropping the old one would delete the rows that refer to its own, and renaming the new one fails where views read
    the table. Neither setting can be changed within a transaction; what they would have guarded is looked at at its end.
    """
    driver = connection.connection.driver_connection
    if driver is None:
        raise AssertionError("BUG: the connection to migrate on is closed")
    driver.execute("PRAGMA foreign_keys = OFF")
    driver.execute("PRAGMA legacy_alter_table = ON")
    try:
        yield
    finally:
        driver.execute("PRAGMA legacy_alter_table = OFF")
        driver.execute("PRAGMA foreign_keys = ON")


def _last_ids(connection: Connection) -> dict[str, int]:
    """Return the highest id that each table has ever given."""
    if not connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'").all():
        return {}
    return {str(name): int(last) for name, last in connection.exec_driver_sql("SELECT name, seq FROM sqlite_sequence")}


def _keep_ids(connection: Connection, before: dict[str, int]) -> None:
    """Let no table that is still there give an id again: a copy knows those of its rows alone."""
    now = _last_ids(connection)
    for name in sorted(before.keys() & set(inspect(connection).get_table_names())):
        if before[name] > now.get(name, 0):
            connection.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
            connection.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, before[name]))


def _broken_views(connection: Connection) -> set[str]:
    """Return the views that cannot be read."""
    found = set()
    for name in inspect(connection).get_view_names():
        try:
            connection.exec_driver_sql(f'SELECT 1 FROM "{name}" LIMIT 0')  # noqa: S608  # a name out of the catalogue
        except DBAPIError:
            found.add(name)
    return found


def _insist_whole(connection: Connection, *, known: set[str]) -> None:
    """Insist on what a server would have refused at once: no view without its tables, no row without its parent."""
    broken = sorted(_broken_views(connection) - known)
    if broken:
        raise TransientStorageError(
            f"view {broken[0]} reads tables that would go (SQLSTATE 2BP01): drop the time series first",
            sqlstate="2BP01",
        )
    for table, row_id, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        raise PermanentStorageError(
            f"row {row_id} of {table} refers to a row of {parent} that is not there (SQLSTATE 23503): remove it first",
            sqlstate="23503",
        )


_connection = context.config.attributes.get("connection")
if not isinstance(_connection, Connection):
    raise AssertionError('BUG: migrations run through storage.schema only: use "fleetpulse db upgrade"')
run(_connection)
