"""
Revisions of the relational half: upgrade, downgrade, compare.

Alembic owns the relational tables, one tree of revisions for all engines; ``Store.provision()`` owns the time series
under a version of its own. Nothing here depends on the working directory or on an ``alembic.ini``.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import CheckConstraint, Connection, DefaultClause, Engine, Identity, inspect

from storage import work_models  # noqa: F401  # its tables are part of Base.metadata
from storage.deadlines import Deadline
from storage.errors import SchemaMismatch, StorageError
from storage.forks import Lock
from storage.models import Base
from storage.sqlstate import translated
from storage.transactions import writing
from storage.versions import UPGRADE

#: Alembic's own table: one row, the revision.
VERSION_TABLE = "alembic_version"
#: Advisory lock of upgrades and downgrades: ``fpschema`` in ASCII.
LOCK_KEY = 0x6670736368656D61
#: How long an upgrade waits for another one, and a revision for a table that is in use.
LOCK_WAIT_S = 60
#: For engines that take deadlines at the beginning: a revision may have to rewrite a table, and is not cut short.
_DEADLINE = Deadline(statement_ms=0, lock_ms=LOCK_WAIT_S * 1000)

#: Alembic's environment is one per process; the lock in the database keeps other processes out, not other threads.
_ALONE = Lock()

_TIMESERIES_PREFIXES = ("health_", "agent_metrics", "system_metrics", "ingest_")
_TIMESERIES_NAMES = frozenset({"marks", "horizons", "quarantine", "provision_version"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One step of the relational schema."""

    #: ``0001``, ``0002``, …
    revision: str
    #: The step before, ``None`` for the first.
    down_revision: str | None
    #: First line of what it does.
    description: str


def is_timeseries(name: str) -> bool:
    """Tell whether the relation *name* belongs to ``Store.provision()`` and not to Alembic."""
    return name in _TIMESERIES_NAMES or name.startswith(_TIMESERIES_PREFIXES)


def include_name(name: str | None, kind: str, parents: MutableMapping[Any, str | None]) -> bool:
    """Tell Alembic whether to look at the object *name* when it compares a database with the metadata."""
    return not (kind == "table" and name is not None and is_timeseries(name))


#: How Alembic compares a database with the metadata.
COMPARISON: dict[str, Any] = {
    "version_table": VERSION_TABLE,
    "include_name": include_name,
    "compare_type": True,
    "compare_server_default": True,
}


def upgrade(engine: Engine, revision: str = "head") -> None:
    """
    Bring the relational half up to *revision*, in one transaction.

    Raises:
        SchemaMismatch: The database is at a revision that this code does not know: it is older than the database.
        StorageError: There is no such revision.
        TransientStorageError: The database could not be reached, or another upgrade did not finish in time.
    """
    _run(engine, command.upgrade, revision)


def downgrade(engine: Engine, revision: str) -> None:
    """
    Take the relational half back to *revision*; ``base`` leaves nothing of it, data included.

    The time-series half must be dropped first where its views read relational tables.

    Raises:
        SchemaMismatch: The database is at a revision that this code does not know.
        StorageError: There is no such revision.
        TransientStorageError: The database could not be reached, or something still depends on a table.
    """
    _run(engine, command.downgrade, revision)


def current(engine: Engine) -> str | None:
    """
    Return the revision that the database is at, ``None`` before the first.

    Raises:
        TransientStorageError: The database could not be reached.
    """
    with translated("reading the schema revision"), engine.connect() as connection:
        found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_heads()
    return ", ".join(found) or None


def history() -> list[Revision]:
    """Return every revision that this code knows, oldest first."""
    steps = ScriptDirectory.from_config(_config()).walk_revisions()
    return [
        Revision(
            revision=step.revision,
            down_revision=step.down_revision if isinstance(step.down_revision, str) else None,
            description=(step.doc or "").strip().splitlines()[0],
        )
        for step in reversed(list(steps))
    ]


def heads() -> tuple[str, ...]:
    """Return the newest revisions that this code knows; the tree has one unless two branches were merged badly."""
    return tuple(ScriptDirectory.from_config(_config()).get_heads())


def head() -> str:
    """Return the revision that this code needs."""
    found = heads()
    if len(found) != 1:
        raise AssertionError(f"BUG: revisions have {len(found)} heads, expected one: {', '.join(found)}")
    return found[0]


def require_head(engine: Engine) -> None:
    """
    Insist that the relational half is at the revision of this code.

    Raises:
        SchemaMismatch: It is older, newer, or not there; the message names the remedy.
    """
    found, needed = current(engine), head()
    if found == needed:
        return
    if found is None:
        raise SchemaMismatch(
            f"database has no fleetpulse schema, code needs revision {needed}: {UPGRADE}",
            found=None,
            needed=needed,
        )
    known = {each.revision for each in history()}
    remedy = UPGRADE if found in known else "install the newer fleetpulse"
    raise SchemaMismatch(f"database is at revision {found}, code needs {needed}: {remedy}", found=found, needed=needed)


def check(engine: Engine) -> list[str]:
    """
    Compare the relational half of the database with the models.

    Returns:
        One line per difference: what it would take to go from the database to the models; none when they agree.

    Raises:
        TransientStorageError: The database could not be reached.
    """
    options = {**COMPARISON, "target_metadata": Base.metadata}
    with translated("comparing the schema"), engine.connect() as connection:
        differences = _flat(compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata))
        return [
            *(_describe(each) for each in differences if _is_real(each, connection)),
            *_missing_checks(connection),
        ]


def _config() -> Config:
    config = Config()
    # Alembic reads options with %-interpolation.
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    return config


def _run(engine: Engine, action: Any, revision: str) -> None:
    config = _config()
    found = current(engine)
    known = {step.revision for step in history()}
    if found is not None and found not in known:
        raise SchemaMismatch(
            f"database is at revision {found}, code knows up to {head()}: upgrade fleetpulse to the version that wrote it",
            found=found,
            needed=head(),
        )
    doing = f"going from revision {found or 'base'} to {revision}"
    with _ALONE, translated(doing), writing(engine, _DEADLINE).connect() as connection:
        config.attributes["connection"] = connection
        try:
            action(config, revision)
        except CommandError as exc:
            raise StorageError(
                f'no way from revision {found or "base"} to "{revision}": {exc}; '
                f"expected one of base, {', '.join(sorted(known))}, head"
            ) from exc
        connection.commit()


def _flat(differences: Sequence[Any]) -> list[tuple[Any, ...]]:
    # Changes of one column come as a list of their own.
    found: list[tuple[Any, ...]] = []
    for difference in differences:
        found.extend(difference if isinstance(difference, list) else [difference])
    return found


def _is_real(difference: tuple[Any, ...], connection: Connection) -> bool:
    if difference[0] != "modify_default":
        return True
    *_, found, expected = difference
    if isinstance(expected, Identity):
        # Where the engine has no such thing, the type makes the identity.
        return connection.dialect.supports_identity_columns
    # Alembic tells '' from (''), which is how it writes SQLite's.
    literal = expected.arg if isinstance(expected, DefaultClause) else None
    return not isinstance(literal, str) or _text(found).strip("()") != "'" + literal.replace("'", "''") + "'"


def _describe(difference: tuple[Any, ...]) -> str:
    action, *what = difference
    if action.startswith("modify_"):
        _schema, table, column, _existing, found, expected = what
        return f"{action}: {table}.{column}: found {_text(found)}, expected {_text(expected)}"
    return f"{action}: " + ".".join(_text(part) for part in what if part is not None)


def _text(part: Any) -> str:
    argument = getattr(part, "arg", None)
    return str(argument if argument is not None else getattr(part, "name", None) or part)


def _missing_checks(connection: Connection) -> list[str]:
    # Alembic does not compare CHECK constraints; their names are enough, because revisions never change one in place.
    inspector = inspect(connection)
    present = set(inspector.get_table_names())
    found: list[str] = []
    for table in Base.metadata.sorted_tables:
        if table.name not in present:
            continue
        expected = {str(item.name) for item in table.constraints if isinstance(item, CheckConstraint)}
        stored = {str(item["name"]) for item in inspector.get_check_constraints(table.name)}
        found.extend(f"add_check: {table.name}.{name}" for name in sorted(expected - stored))
        found.extend(f"remove_check: {table.name}.{name}" for name in sorted(stored - expected))
    return found
