"""
Revisions: up, down, twice, at once, and in agreement with the models.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, bindparam, func, insert, inspect, select, text
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

import migrations.versions
from storage import schema
from storage.errors import PermanentStorageError, SchemaMismatch, StorageError, TransientStorageError
from storage.models import (
    Agent,
    AgentSchedule,
    Base,
    CollectorSession,
    Host,
    LossRecord,
    Metric,
    Moment,
    Reason,
    StatusEvent,
)
from storage.open import open_store
from storage.sqlstate import translated
from storage.store import Capability, Store
from storage.transactions import writing
from storage.work_models import (
    AgentCapability,
    AgentHeartbeat,
    Message,
    MessageEvent,
    SubTask,
    Task,
    TaskAssignment,
    TaskDependency,
    TaskEvent,
    Workflow,
    WorkflowEvent,
)

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
#: What a revision may import: itself must not change when the project does.
FROZEN_IMPORTS = {"__future__", "alembic", "sqlalchemy"}

ROOT = Path(__file__).parents[2]
#: Brings a database up in a process of its own; says so when it has come to the lock.
UPGRADE = """
import sys
from sqlalchemy import event
from storage import schema
from storage.open import open_store
store = open_store(sys.argv[1])

@event.listens_for(store.engine, "before_cursor_execute")
def tell(connection, cursor, statement, parameters, context, executemany):
    if "pg_advisory_xact_lock" in statement or statement == "BEGIN IMMEDIATE":
        print("locking", flush=True)

schema.upgrade(store.engine)
store.close()
"""
#: Tables, columns, indexes and constraints as each kind of server sees them.
CATALOG = {
    "postgresql": """
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
""",
    "sqlite": """
SELECT 'column', t.name || '.' || c.name,
       c.type || ' ' || c."notnull" || ' ' || c.pk || coalesce(' ' || c.dflt_value, '')
  FROM sqlite_master AS t JOIN pragma_table_xinfo(t.name) AS c
 WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite~_%' ESCAPE '~'
UNION ALL
SELECT 'identity', t.name, '' || (t.sql LIKE '%PRIMARY KEY AUTOINCREMENT%')
  FROM sqlite_master AS t WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite~_%' ESCAPE '~'
UNION ALL
SELECT 'index', t.name || '.' || i.name,
       i."unique" || ' ' || coalesce((SELECT m.sql FROM sqlite_master AS m WHERE m.name = i.name),
       (SELECT group_concat(x.name) FROM pragma_index_xinfo(i.name) AS x WHERE x.key))
  FROM sqlite_master AS t JOIN pragma_index_list(t.name) AS i
 WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite~_%' ESCAPE '~'
UNION ALL
SELECT 'foreign key', t.name || '.' || f."from", f."table" || '.' || f."to"
  FROM sqlite_master AS t JOIN pragma_foreign_key_list(t.name) AS f WHERE t.type = 'table'
ORDER BY 1, 2
""",
}
#: All that a database holds; SQLite keeps its counters of ids.
RELATIONS = {
    "postgresql": "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace",
    "sqlite": "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite~_%' ESCAPE '~'",
}
#: The same damage on every engine; SQLite alters no column in place.
DAMAGE = {
    "postgresql": (
        "ALTER TABLE hosts ADD extra integer, ALTER name DROP NOT NULL, ALTER labels DROP DEFAULT",
        "ALTER TABLE losses DROP CONSTRAINT losses_n_check, ALTER reason TYPE varchar(5)",
    ),
    "sqlite": (
        "DROP TABLE hosts",
        "CREATE TABLE hosts (id integer PRIMARY KEY AUTOINCREMENT NOT NULL, name text, labels json NOT NULL,"
        " created_at integer NOT NULL, extra integer, CONSTRAINT hosts_name_key UNIQUE (name))",
        "DROP TABLE losses",
        "CREATE TABLE losses (id integer PRIMARY KEY AUTOINCREMENT NOT NULL, agent_id integer NOT NULL,"
        " from_due integer NOT NULL, to_due integer NOT NULL, n bigint NOT NULL, reason varchar(5) NOT NULL,"
        " spool_id char(32), seq bigint, recorded_at integer NOT NULL,"
        " CONSTRAINT losses_order_check CHECK (to_due >= from_due))",
        "CREATE INDEX losses_agent_id_from_due_idx ON losses (agent_id, from_due)",
    ),
}


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[Engine]:
    """Return an engine on a database with nothing in it."""
    found = open_store(empty_database_url)
    yield found.engine
    found.close()


def catalog(engine: Engine) -> list[tuple[str, str, str]]:
    """Return everything that the database holds, Alembic's own table apart."""
    with engine.connect() as connection:
        found = [(kind, name, what) for kind, name, what in connection.execute(text(CATALOG[engine.dialect.name]))]
        found += [
            ("check", f"{table}.{each['name']}", each["sqltext"])
            for table in sorted(inspect(connection).get_table_names())
            for each in inspect(connection).get_check_constraints(table)
        ]
    return [each for each in found if not each[1].startswith(schema.VERSION_TABLE)]


@contextmanager
def locked(engine: Engine) -> Iterator[None]:
    """Hold the lock that an upgrade takes."""
    with writing(engine).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": schema.LOCK_KEY})
        yield


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
        populate_work(session, agent)
    with engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            assert connection.execute(select(table).limit(1)).first() is not None, f"{table.name} has no row"


def populate_work(session: Session, agent: Agent) -> None:
    """Put a row into every table of agents' work."""
    workflow = Workflow(name="w", type="t", created_at=NOW)
    session.add(workflow)
    session.flush()
    first, second = (Task(workflow_id=workflow.id, type="t", name=name, created_at=NOW) for name in ("one", "two"))
    message = Message(sender_id=agent.id, recipient_id=agent.id, type="t", payload={"a": 1}, created_at=NOW)
    session.add_all([first, second, message])
    session.flush()
    session.add_all(
        [
            AgentCapability(agent_id=agent.id, name="t", added_at=NOW),
            AgentHeartbeat(agent_id=agent.id, at=NOW),
            SubTask(task_id=first.id, position=1, name="s", created_at=NOW),
            TaskDependency(task_id=second.id, depends_on=first.id),
            TaskAssignment(task_id=first.id, agent_id=agent.id, attempt=1, started_at=NOW),
            TaskEvent(task_id=first.id, ts=NOW, to_state="pending"),
            MessageEvent(message_id=message.id, ts=NOW, to_state="pending"),
            WorkflowEvent(workflow_id=workflow.id, ts=NOW, to_state="pending"),
        ]
    )


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
        left = connection.execute(text(RELATIONS[engine.dialect.name])).all()

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


def upgrade_at_once(engine: Engine, url: str) -> None:
    """Start two upgrades while the lock is held, let them go, and insist that both succeed."""
    command = [sys.executable, "-c", UPGRADE, url]
    with locked(engine):
        started = [
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for _ in range(2)
        ]
        said = [process.stdout.readline() for process in started if process.stdout is not None]
        running = [process.poll() for process in started]
    rest = [process.communicate(timeout=60)[0] for process in started]

    assert (said, rest) == (["locking\n"] * 2, [""] * 2)
    assert running == [None, None]
    assert [process.returncode for process in started] == [0, 0]
    assert schema.current(engine) == schema.head()
    assert schema.check(engine) == []


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_upgrades_at_once(engine: Engine, empty_database_url: str) -> None:
    """Of upgrades at the same moment one does the work, the others wait and find it done."""
    upgrade_at_once(engine, empty_database_url)


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
        for statement in DAMAGE[engine.dialect.name]:
            connection.execute(text(statement))
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
        names = inspect(connection).get_table_names()
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


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/none", "sqlite:////no-such-folder/none.db"])
def test_unreachable_database_is_transient(url: str) -> None:
    """A server or a folder that is not there is an error of storage, not of the driver."""
    store = open_store(url)
    try:
        with pytest.raises(TransientStorageError, match=r"reading the schema revision failed|there is no folder"):
            schema.current(store.engine)
    finally:
        store.close()


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
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET TIME ZONE 'Asia/Kathmandu'"))
        found = connection.execute(select(Host.created_at)).scalar_one()
    with pytest.raises(StatementError, match="has no time zone"), engine.begin() as connection:
        connection.execute(insert(Host).values(name="i", created_at=datetime(2026, 3, 10)))  # noqa: DTZ001  # the point

    assert found == local
    assert found.utcoffset() == timedelta(0)


def test_timestamps_keep_order_and_microseconds(engine: Engine) -> None:
    """Moments far apart and a microsecond apart come back exactly, compare and sort as moments."""
    schema.upgrade(engine)
    step = timedelta(microseconds=1)
    elsewhere = NOW.astimezone(timezone(timedelta(hours=-11)))
    moments = [datetime(1, 1, 2, tzinfo=UTC), NOW - step, elsewhere, NOW + step, datetime(9999, 1, 1, tzinfo=UTC)]
    with engine.begin() as connection:
        rows = [{"name": str(number), "created_at": moment} for number, moment in enumerate(moments)]
        connection.execute(insert(Host), rows[::-1])
        found = connection.execute(select(Host.created_at).order_by(Host.created_at)).scalars().all()
        until = select(Host.name).where(Host.created_at <= NOW).order_by(Host.created_at)
        names = connection.execute(until).scalars().all()
        last = connection.execute(select(func.max(Host.created_at))).scalar_one()

    assert found == moments
    assert names == ["0", "1", "2"]
    assert last == moments[-1]


#: What no client may do.
NONSENSE = (
    "UPDATE agents SET source = 'elsewhere'",
    "UPDATE agents SET state = 'gone'",
    "UPDATE agents SET state = 'retired'",
    "UPDATE agents SET retired_at = created_at",
    "UPDATE agents SET status = 'skipped'",
    "UPDATE agents SET name = NULL",
    "UPDATE metrics SET kind = 'histogram'",
    "UPDATE agent_schedules SET offset_s = interval_s",
    "UPDATE agent_schedules SET to_ts = :before",
    "UPDATE losses SET n = -1",
    "INSERT INTO agent_schedules (agent_id, from_ts, interval_s, offset_s, state)"
    " SELECT agent_id, from_ts, interval_s, offset_s, state FROM agent_schedules",
    "INSERT INTO agent_schedules (agent_id, from_ts, interval_s, offset_s, state)"
    " SELECT agent_id + 1, from_ts, interval_s, offset_s, state FROM agent_schedules",
    "INSERT INTO reasons (reason) SELECT reason FROM reasons",
    "DELETE FROM agents",
)


def test_database_refuses_what_makes_no_sense(engine: Engine) -> None:
    """Constraints hold against every client, not only ours, and what they refuse is the data's fault."""
    schema.upgrade(engine)
    populate(engine)
    states = {}
    for statement in NONSENSE:
        found = text(statement)
        if ":before" in statement:
            found = found.bindparams(bindparam("before", NOW - timedelta(seconds=1), type_=Moment))
        try:
            with translated("it"), engine.begin() as connection:
                connection.execute(found)
        except PermanentStorageError as exc:
            states[statement] = exc.sqlstate

    assert [statement for statement in NONSENSE if statement not in states] == []
    assert set(states.values()) == {"23502", "23503", "23505", "23514"}


def test_ids_are_never_given_twice(engine: Engine) -> None:
    """The id of a row that is gone names nothing else, not even that of the newest one."""
    schema.upgrade(engine)
    seen = []
    for number in range(3):
        with engine.begin() as connection:
            seen.append(connection.execute(insert(Reason).values(reason=str(number)).returning(Reason.id)).scalar_one())
            connection.execute(text("DELETE FROM reasons"))

    assert seen == [1, 2, 3]
