"""
Revisions: up, down, twice, at once, and in agreement with the models.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, create_engine, insert, select, text
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

import migrations.versions
from storage import schema
from storage.errors import SchemaMismatch, StorageError, TransientStorageError
from storage.models import Agent, AgentSchedule, Base, CollectorSession, Host, LossRecord, Metric, Reason, StatusEvent
from storage.open import open_store
from storage.store import Store

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
#: What a revision may import: itself must not change when the project does.
FROZEN_IMPORTS = {"__future__", "alembic", "sqlalchemy"}

ROOT = Path(__file__).parents[2]
#: Brings a database up in a process of its own.
UPGRADE = """
import sys
from storage import schema
from storage.open import open_store
store = open_store(sys.argv[1])
schema.upgrade(store.engine)
store.close()
"""
#: Tables, columns, indexes and constraints as the server sees them.
CATALOG = """
SELECT 'column', c.relname || '.' || a.attname,
       format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull || ' ' || a.attidentity::text
       || coalesce(' ' || pg_get_expr(d.adbin, d.adrelid), '')
  FROM pg_attribute AS a
  JOIN pg_class AS c ON c.oid = a.attrelid
  LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'index', c.relname, pg_get_indexdef(c.oid)
  FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'i'
UNION ALL
SELECT 'constraint', r.relname || '.' || c.conname, pg_get_constraintdef(c.oid)
  FROM pg_constraint AS c JOIN pg_class AS r ON r.oid = c.conrelid
 WHERE c.connamespace = 'public'::regnamespace
ORDER BY 1, 2
"""


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[Engine]:
    """Return an engine on a database with nothing in it."""
    found = open_store(empty_database_url).engine
    yield found
    found.dispose()


def catalog(engine: Engine) -> list[tuple[str, str, str]]:
    """Return everything that the database holds, Alembic's own table apart."""
    with engine.connect() as connection:
        rows = connection.execute(text(CATALOG)).all()
    return [(kind, name, what) for kind, name, what in rows if not name.startswith(schema.VERSION_TABLE)]


def populate(engine: Engine) -> None:
    """Put a row into every relational table."""
    with Session(engine) as session, session.begin():
        agent = Agent(
            name="a",
            type="agent",
            probe="http",
            endpoint="http://localhost/",
            labels={"zone": "a"},
            interval_s=15.0,
            timeout_s=10.0,
            rise=1,
            fall=2,
            credential="",
            options={},
            source="file",
            created_at=NOW,
        )
        session.add(agent)
        session.flush()
        seen = {"agent_id": agent.id, "spool_id": uuid4(), "seq": 1}
        session.add_all(
            [
                AgentSchedule(agent_id=agent.id, from_ts=NOW, interval_s=15.0, offset_s=0.5, state="active"),
                Host(name="h", created_at=NOW),
                Metric(name="m", labels={}, kind="gauge", labels_digest=b"x"),
                Reason(reason="why"),
                StatusEvent(**seen, ts=NOW, from_status="unknown", to_status="healthy", reason=""),
                LossRecord(**seen, from_due=NOW, to_due=NOW, n=1, reason="spool_full", recorded_at=NOW),
                CollectorSession(
                    uuid=uuid4(), name="main", host="h", pid=1, version="0", started_at=NOW, last_seen_at=NOW
                ),
            ]
        )
    with engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            assert connection.execute(select(table).limit(1)).first() is not None, f"{table.name} has no row"


def test_head_equals_the_models(engine: Engine) -> None:
    """Head and the models make the same tables, in Alembic's eyes and in the server's catalogue."""
    schema.upgrade(engine)
    assert schema.check(engine) == []
    by_revisions = catalog(engine)
    schema.downgrade(engine, "base")
    Base.metadata.create_all(engine)

    assert catalog(engine) == by_revisions


def test_downgrade_to_base_leaves_nothing(engine: Engine) -> None:
    """Every revision goes down from a populated database, one at a time, until nothing is left."""
    schema.upgrade(engine)
    populate(engine)
    for step in reversed(schema.history()):
        schema.downgrade(engine, step.down_revision or "base")
        assert schema.current(engine) == step.down_revision

    with engine.connect() as connection:
        left = connection.execute(
            text("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        ).all()

    assert left == []


def test_every_revision_upgrades_a_populated_database(engine: Engine) -> None:
    """One revision at a time up to head, down and up again: rows survive what does not drop their table."""
    for step in schema.history():
        schema.upgrade(engine, step.revision)
        assert schema.current(engine) == step.revision
    populate(engine)
    before = catalog(engine)
    schema.upgrade(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM agents")).scalar_one() == 1

    schema.downgrade(engine, "base")
    schema.upgrade(engine)

    assert catalog(engine) == before


def test_two_upgrades_at_once(engine: Engine) -> None:
    """Of upgrades at the same moment one does the work, the others wait and find it done."""
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with engine.connect() as holder:
        holder.execute(text("SELECT pg_advisory_lock(:key)"), {"key": schema.LOCK_KEY})
        started = [
            subprocess.Popen(
                [sys.executable, "-c", UPGRADE, url],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(3)
        ]
        deadline = time.monotonic() + 60
        waiting = text(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        while (waiters := holder.execute(waiting).scalar_one()) < 3 and time.monotonic() < deadline:
            if all(process.poll() is not None for process in started):
                break
            time.sleep(0.02)
        holder.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": schema.LOCK_KEY})
        said = [process.communicate(timeout=60)[0] for process in started]

    assert waiters == 3
    assert said == ["", "", ""]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert schema.current(engine) == schema.head()
    assert schema.check(engine) == []


def test_failed_upgrade_leaves_nothing_half_done(engine: Engine) -> None:
    """A revision that fails is rolled back whole."""
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE losses (in_the_way integer)"))
    with pytest.raises(TransientStorageError, match=r"going from revision base to head failed: .*losses"):
        schema.upgrade(engine)

    assert schema.current(engine) is None
    assert {name.split(".")[0] for kind, name, _ in catalog(engine) if kind == "column"} == {"losses"}


def test_check_names_every_kind_of_difference(engine: Engine) -> None:
    """Each thing that somebody changed by hand is one line."""
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(
            text("ALTER TABLE hosts ADD extra integer, ALTER name DROP NOT NULL, ALTER labels DROP DEFAULT")
        )
        connection.execute(text("ALTER TABLE losses DROP CONSTRAINT losses_n_check, ALTER reason TYPE varchar(5)"))
        connection.execute(text("DROP INDEX status_events_agent_id_ts_idx"))
        connection.execute(text("CREATE TABLE stranger (n integer)"))

    assert sorted(schema.check(engine)) == [
        "add_check: losses.losses_n_check",
        "add_index: status_events_agent_id_ts_idx",
        "modify_default: hosts.labels: found None, expected '{}'",
        "modify_nullable: hosts.name: found True, expected False",
        "modify_type: losses.reason: found VARCHAR(5), expected TEXT",
        "remove_column: hosts.extra",
        "remove_table: stranger",
    ]


def test_check_ignores_the_time_series(store: Store) -> None:
    """Tables that ``provision`` made are no difference, although Alembic would see them."""
    with store.engine.connect() as connection:
        everything = compare_metadata(MigrationContext.configure(connection), Base.metadata)
        names = connection.execute(
            text("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')")
        ).scalars()
        ours = {table.name for table in Base.metadata.sorted_tables} | {schema.VERSION_TABLE}
        foreign = [name for name in names if name not in ours]

    assert any("marks" in str(difference) for difference in everything)
    assert schema.check(store.engine) == []
    assert [name for name in foreign if not schema.is_timeseries(name)] == []


def test_relational_names_are_not_taken_for_time_series() -> None:
    """No relational table is left out of the comparison."""
    assert [table.name for table in Base.metadata.sorted_tables if schema.is_timeseries(table.name)] == []


def test_unknown_revision_is_named(engine: Engine) -> None:
    """Going to a revision that is not there names those that are; the database stays as it is."""
    with pytest.raises(StorageError, match=r'no way from revision base to "0999": .*expected one of base, 0001'):
        schema.upgrade(engine, "0999")

    assert schema.current(engine) is None


def test_newer_database_is_refused(engine: Engine) -> None:
    """A database that a later version wrote is left alone, and the message says what to do."""
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'"))  # noqa: S608  # a constant
    with pytest.raises(SchemaMismatch, match=r"at revision 9999.*upgrade fleetpulse") as caught:
        schema.upgrade(engine)
    with pytest.raises(SchemaMismatch, match="install the newer fleetpulse"):
        schema.require_head(engine)

    assert (caught.value.found, caught.value.needed) == ("9999", schema.head())


def test_require_head_of_an_empty_database(engine: Engine) -> None:
    """A database without the schema names the command that makes it; with it nothing is raised."""
    with pytest.raises(SchemaMismatch, match='run "fleetpulse db upgrade"') as caught:
        schema.require_head(engine)
    schema.upgrade(engine)
    schema.require_head(engine)

    assert caught.value.found is None


def test_unreachable_database_is_transient() -> None:
    """A server that is not there is an error of storage, not of the driver."""
    engine = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(TransientStorageError, match="reading the schema revision failed"):
        schema.current(engine)
    engine.dispose()


def test_revisions_are_one_line_of_numbers() -> None:
    """Revisions are numbered without a gap, each after the one before, in files named after them."""
    history = schema.history()
    numbers = [step.revision for step in history]
    folder = Path(next(iter(migrations.versions.__path__)))

    assert numbers == [f"{number:04}" for number in range(1, len(history) + 1)]
    assert [step.down_revision for step in history] == [None, *numbers[:-1]]
    assert schema.heads() == (numbers[-1],)
    assert sorted(path.name[:4] for path in folder.glob("0*.py")) == numbers
    assert all(step.description for step in history)


def test_revisions_import_no_project_code() -> None:
    """A revision is frozen: it imports nothing that may change."""
    folder = Path(next(iter(migrations.versions.__path__)))
    found: set[str] = set()
    for path in folder.glob("0*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or ".").split(".")[0])

    assert found
    assert found <= FROZEN_IMPORTS


def test_timestamps_are_aware_utc(engine: Engine) -> None:
    """A moment of another zone comes back as the same moment in UTC, whatever the session's zone; a naive one is refused."""
    schema.upgrade(engine)
    local = datetime(2026, 3, 10, 12, tzinfo=timezone(timedelta(hours=5)))
    with engine.begin() as connection:
        connection.execute(insert(Host).values(name="h", created_at=local))
        connection.execute(text("SET TIME ZONE 'Asia/Kathmandu'"))
        found = connection.execute(select(Host.created_at)).scalar_one()
    with pytest.raises(StatementError, match="has no time zone"), engine.begin() as connection:
        connection.execute(insert(Host).values(name="i", created_at=datetime(2026, 3, 10)))  # noqa: DTZ001  # the point

    assert found == local
    assert found.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE agents SET source = 'elsewhere'",
        "UPDATE agents SET state = 'gone'",
        "UPDATE agents SET state = 'retired'",
        "UPDATE agents SET retired_at = now()",
        "UPDATE agents SET status = 'skipped'",
        "UPDATE metrics SET kind = 'histogram'",
        "UPDATE agent_schedules SET offset_s = interval_s",
        "UPDATE agent_schedules SET to_ts = from_ts - interval '1 second'",
        "INSERT INTO agent_schedules (agent_id, from_ts, interval_s, offset_s, state)"
        " SELECT agent_id, from_ts, interval_s, offset_s, state FROM agent_schedules",
        "DELETE FROM agents",
    ],
)
def test_database_refuses_what_makes_no_sense(engine: Engine, statement: str) -> None:
    """Constraints hold against every client, not only ours."""
    schema.upgrade(engine)
    populate(engine)

    with pytest.raises(Exception, match=r"violates|duplicate"), engine.begin() as connection:
        connection.execute(text(statement))
