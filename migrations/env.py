"""
Alembic's environment: runs revisions on the connection that ``storage.schema`` hands over.

Time-series tables belong to ``Store.provision()``; they are left out of every comparison by name. Everything happens
in one transaction under an advisory lock: of two upgrades at once the second waits, and then finds nothing to do.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from storage.models import Base
from storage.schema import LOCK_KEY, LOCK_WAIT_S, VERSION_TABLE, include_name


def run(connection: Connection) -> None:
    """Run the revisions that Alembic has been asked for."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_name=include_name,
        version_table=VERSION_TABLE,
        compare_type=True,
        compare_server_default=True,
        # SQLite cannot alter a column in place.
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'"))
            # A revision may have to rewrite a table; a deadline meant for queries must not cut it short.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
        context.run_migrations()
        if not context.get_context().get_current_heads():
            # Alembic leaves its own table behind at base; an empty schema is what was asked for.
            connection.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))


_connection = context.config.attributes.get("connection")
if not isinstance(_connection, Connection):
    raise AssertionError('BUG: migrations run through storage.schema only: use "fleetpulse db upgrade"')
run(_connection)
