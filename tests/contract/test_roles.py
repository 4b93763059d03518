"""
What the roles of a database may do, and what each of them must not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import errors, sql
from sqlalchemy import text

from reports.catalogue import CATALOGUE
from reports.run import run as run_report
from rollups import retention
from rollups.policy import RetentionPolicy
from rollups.refresh import refresh_all
from rollups.verify import verify
from storage import schema
from storage.errors import TransientStorageError
from storage.layout import parent
from storage.model import ROLLUPS, AgentSpec, Loss, Outcome, Table, Tier, Transition, Window
from storage.repositories import AgentRepository
from storage.store import Capability, Store
from tests.batches import SESSION, Spool, every
from tests.deploy.dashboards import PATHS, expand
from tests.deploy.dashboards import statements as statements_of
from tests.deploy.dashboards import variables as variables_of
from tests.roles import Place, lent
from tests.servers import Servers

#: Roles are told apart by their sessions.
pytestmark = pytest.mark.needs(Capability.SEVERAL_WRITERS)

#: Days that a batch must be old for retention to drop it; and a month in which no partition was ever made ahead.
LONG_AGO = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=40)
SPEC = AgentSpec(name="a", endpoint="http://127.0.0.1:9/", interval_s=15, timeout_s=10)


@pytest.fixture(scope="module")
def place(database_servers: Servers, engine_name: str) -> Iterator[Place]:
    """Return a database whose roles are made; what is tried on it is refused, or does no harm."""
    with lent(database_servers, engine_name) as found:
        found.apply()
        with found.connected() as connection:
            connection.execute("CREATE SCHEMA elsewhere CREATE TABLE secrets (secret text)")
        with found.store(found.names.writer) as store:
            write(store)
        yield found


def write(store: Store) -> None:
    """Write a batch that touches every table, into a day that has no partition yet."""
    first, second = every(LONG_AGO, 60, 2)
    store.claim_collector("test")
    store.open_session(SESSION)
    result = store.write(
        Spool().batch(
            checks=[("a", first, Outcome.HEALTHY, 1.0), ("a", second, Outcome.TIMEOUT, None)],
            samples=[("a", "requests", first, 1.0), ("a", "requests", first, float("nan"))],
            system=[("h", "cpu_percent", first, 50.0)],
            transitions=[Transition(agent="a", old="unknown", new="healthy", due=first, reason="told so")],
            losses=[Loss(agent="a", from_due=first, to_due=second, n=2, reason="spool_full")],
            reason="slow",
        )
    )
    assert (result.accepted, result.rejections) == (4, 1)


def refused(place: Place, role: str, statement: str) -> str | None:
    """Return the SQLSTATE with which *role* is refused *statement*, ``None`` when it is not."""
    names = place.names
    filled = statement.format(
        owner=names.owner,
        writer=names.writer,
        reader=names.reader,
        day=f"{LONG_AGO:%Y%m%d}",
        today=f"{datetime.now(UTC):%Y%m%d}",
    )
    with place.connected(role) as connection:
        # A setting that protects from mistakes; whoever means harm turns it off.
        connection.execute("SET default_transaction_read_only = off")
        try:
            connection.execute(filled)
        except psycopg.Error as exc:
            return exc.sqlstate
    return None


#: What neither writer nor reader may do. A statement that names something wrong would fail before rights are asked for.
NEITHER = (
    # rows
    "UPDATE health_checks SET outcome = 0",
    "DELETE FROM health_checks",
    "DELETE FROM agent_metrics",
    "TRUNCATE health_checks",
    "TRUNCATE system_metrics",
    "DELETE FROM marks",
    "UPDATE marks SET tier = 3",
    "TRUNCATE marks",
    "UPDATE ingest_batches SET n_rows = 0",
    "DELETE FROM ingest_batches",
    "DELETE FROM ingest_batch_days",
    "DELETE FROM quarantine",
    "UPDATE horizons SET closed_before = now()",
    "INSERT INTO horizons SELECT * FROM horizons",
    "UPDATE provision_version SET version = 0",
    "DELETE FROM alembic_version",
    "DELETE FROM agents",
    "TRUNCATE agents CASCADE",
    "UPDATE status_events SET reason = ''",
    "DELETE FROM status_events",
    "DELETE FROM losses",
    "UPDATE losses SET n = 0",
    "UPDATE metrics SET unit = 's'",
    "DELETE FROM collector_sessions",
    # tables
    "CREATE TABLE mine (i int)",
    "CREATE TEMPORARY TABLE mine (i int)",
    "CREATE VIEW mine AS SELECT 1",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql RETURN 1",
    "CREATE SEQUENCE mine",
    "CREATE SCHEMA mine",
    "CREATE INDEX mine ON agents (name)",
    "ALTER TABLE health_checks ADD COLUMN mine int",
    "ALTER TABLE agents DISABLE TRIGGER ALL",
    "ALTER TABLE agents OWNER TO {reader}",
    "ALTER VIEW fleet_health RENAME TO mine",
    "CREATE OR REPLACE VIEW fleet_health AS SELECT 1",
    "DROP TABLE agents CASCADE",
    "DROP TABLE health_checks",
    "DROP VIEW health_1h CASCADE",
    "DROP FUNCTION latency_bin(float8)",
    "ALTER FUNCTION latency_bin(float8) SECURITY DEFINER",
    "CREATE TRIGGER mine AFTER INSERT ON agents EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE POLICY mine ON agents",
    "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT ALL ON TABLES TO PUBLIC",
    "COMMENT ON TABLE agents IS 'mine'",
    "BEGIN; LOCK TABLE horizons IN ACCESS EXCLUSIVE MODE",
    "SELECT setval('agents_id_seq', 1)",
    # other roles, other places
    "SET ROLE {owner}",
    "SET SESSION AUTHORIZATION {owner}",
    "CREATE ROLE mine",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER ROLE {owner} PASSWORD 'x'",
    "DROP OWNED BY {owner}",
    "GRANT {owner} TO CURRENT_USER",
    "SELECT * FROM elsewhere.secrets",
    "CREATE TABLE elsewhere.mine (i int)",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT pg_ls_dir('.')",
    "SELECT lo_import('/etc/hosts')",
    "COPY agents TO '/tmp/mine'",
    "COPY agents FROM '/etc/hosts'",
    "COPY agents TO PROGRAM 'cat'",
    "SELECT rolpassword FROM pg_authid",
    "ALTER SYSTEM SET fsync = off",
    "SELECT pg_reload_conf()",
    "CREATE PUBLICATION mine FOR TABLE agents",
)
#: What the reader may not do either.
READER = (
    "INSERT INTO agents DEFAULT VALUES",
    "UPDATE agents SET status = 'healthy'",
    "UPDATE agent_schedules SET to_ts = now()",
    "DELETE FROM agent_schedules",
    "UPDATE collector_sessions SET ended_at = now()",
    "INSERT INTO health_checks SELECT * FROM health_checks",
    "INSERT INTO marks (tbl, tier, bucket) VALUES (1, 1, now())",
    "INSERT INTO ingest_batches DEFAULT VALUES",
    "INSERT INTO losses DEFAULT VALUES",
    "INSERT INTO quarantine DEFAULT VALUES",
    "COPY agents FROM STDIN",
    "SELECT * FROM agents FOR UPDATE",
    "BEGIN; LOCK TABLE agents IN SHARE MODE",
    "SET ROLE {writer}",
)
#: What exists only where the rollups are ours.
PARTITIONED = (
    "DELETE FROM health_checks_{day}",
    "TRUNCATE health_checks_{day}",
    "DROP TABLE health_checks_{day}",
    "ALTER TABLE health_checks DETACH PARTITION health_checks_{day}",
    "CREATE TABLE mine PARTITION OF health_checks DEFAULT",
    "INSERT INTO health_1m_mat SELECT * FROM health_1m_mat",
    "DELETE FROM health_1h_mat",
    "DELETE FROM agent_metrics_1d_mat",
    "DELETE FROM health_1m_mat_{today}",
    "TRUNCATE health_1m_mat",
)
HYPERTABLES = (
    "SELECT drop_chunks('health_checks', older_than => now())",
    "CALL refresh_continuous_aggregate('health_1m_mat', NULL, now())",
    "SELECT remove_retention_policy('health_checks')",
    "SELECT remove_continuous_aggregate_policy('health_1m_mat')",
    "SELECT add_retention_policy('health_checks', drop_after => INTERVAL '1 day')",
    "SELECT delete_job(job_id) FROM timescaledb_information.jobs WHERE hypertable_name = 'health_checks'",
    "DROP MATERIALIZED VIEW health_1d_mat CASCADE",
    "SELECT set_chunk_time_interval('health_checks', INTERVAL '1 hour')",
)


def own_of(place: Place) -> tuple[str, ...]:
    """Return what is to be refused on the engine of *place* alone."""
    with place.store() as store:
        return HYPERTABLES if store.engine_name == "timescaledb" else PARTITIONED


def test_reader_is_refused_everything_but_reading(place: Place) -> None:
    """Each statement that would change something, or read what is not ours, ends with insufficient privilege."""
    statements = (*NEITHER, *READER, *own_of(place))
    if HYPERTABLES[0] not in statements:
        statements += ("SELECT make_partition(1::smallint, 0::smallint, now())",)

    found = {statement: refused(place, place.names.reader, statement) for statement in statements}

    assert {statement: state for statement, state in found.items() if state != "42501"} == {}


def test_writer_is_refused_everything_but_adding(place: Place) -> None:
    """What was written stays as it is: neither it nor the tables can be changed, taken away, or dropped."""
    statements = (*NEITHER, *own_of(place), "SET ROLE {reader}")

    found = {statement: refused(place, place.names.writer, statement) for statement in statements}

    assert {statement: state for statement, state in found.items() if state != "42501"} == {}


#: Tables that the writer adds rows to, and those of them whose rows it changes.
ADDED = {
    *("agents", "agent_schedules", "collector_sessions", "hosts", "losses", "metrics", "reasons", "status_events"),
    *("health_checks", "agent_metrics", "system_metrics", "marks"),
    *("ingest_batches", "ingest_batch_days", "ingest_rejections", "quarantine"),
    *("agent_capabilities", "agent_heartbeats", "workflows", "tasks", "subtasks", "task_dependencies"),
    *("task_assignments", "messages", "workflow_events", "task_events", "message_events"),
}
CHANGED = {
    *("agents", "agent_schedules", "collector_sessions", "agent_capabilities", "agent_heartbeats"),
    *("workflows", "tasks", "subtasks", "task_assignments", "messages"),
}


@pytest.mark.parametrize("role", ["writer", "reader"])
def test_each_verb_on_each_table(place: Place, role: str) -> None:
    """Of the four that change a table, each role has the right to those on its list, and to no other."""
    with place.connected() as connection:
        tables = connection.execute(
            # The last column: the first is often one that is generated, which nobody may set.
            "SELECT c.relname, a.attname FROM pg_class AS c"
            " JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = c.relnatts"
            " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = current_schema()::regnamespace"
        ).fetchall()
    allowed: dict[str, set[str]] = {"INSERT": set(), "UPDATE": set(), "DELETE": set(), "TRUNCATE": set()}
    with place.connected(getattr(place.names, role)) as connection:
        connection.execute("SET default_transaction_read_only = off")
        for table, column in tables:
            for verb, statement in {
                "INSERT": "INSERT INTO {table} DEFAULT VALUES",
                "UPDATE": "UPDATE {table} SET {column} = {column} WHERE false",
                "DELETE": "DELETE FROM {table} WHERE false",
                "TRUNCATE": "TRUNCATE {table}",
            }.items():
                try:
                    with connection.transaction(force_rollback=True):
                        connection.execute(
                            sql.SQL(statement).format(table=sql.Identifier(table), column=sql.Identifier(column))
                        )
                except errors.InsufficientPrivilege:
                    continue
                except errors.IntegrityError:
                    # Rights were asked for before the row was looked at.
                    pass
                allowed[verb].add(table)

    if role == "reader":
        assert allowed == {"INSERT": set(), "UPDATE": set(), "DELETE": set(), "TRUNCATE": set()}
    else:
        assert allowed == {
            "INSERT": ADDED,
            "UPDATE": CHANGED,
            "DELETE": {"agent_schedules", "agent_capabilities"},
            "TRUNCATE": set(),
        }


def test_reader_changes_nothing_by_mistake(place: Place) -> None:
    """Sessions of the reader are read-only and bounded in time from the start."""
    with place.connected(place.names.reader) as connection:
        shown = [
            connection.execute(f"SHOW {name}").fetchone()
            for name in ("default_transaction_read_only", "statement_timeout", "idle_in_transaction_session_timeout")
        ]

    assert shown == [("on",), ("1min",), ("5min",)]


def test_reader_reads_everything_that_is_ours(place: Place) -> None:
    """Every table, view and partition, every report, and what the command line asks for."""
    now = datetime.now(UTC)
    with place.connected(place.names.reader) as connection:
        relations = connection.execute(
            "SELECT c.oid::regclass::text FROM pg_class AS c WHERE c.relkind IN ('r', 'p', 'v', 'm')"
            " AND c.relnamespace = current_schema()::regnamespace"
        ).fetchall()
        for (relation,) in relations:
            connection.execute(sql.SQL("SELECT * FROM {} LIMIT 1").format(sql.Identifier(relation)))
    with place.store(place.names.reader) as store:
        store.check_schema()
        store.server_version()
        for name, report in CATALOGUE.items():
            run_report(store, name, window=Window(LONG_AGO, now), filters=dict.fromkeys(report.required, "a"))
        agents = AgentRepository(store.engine).list(include_retired=True)
        proof = verify(store, now)
        days = store.verify_ledger()
        sizes = [part.size_bytes for table in Table for tier in Tier for part in store.partitions(table, tier)]

    assert len(relations) > 30
    assert [agent.spec.name for agent in agents] == ["a"]
    # Nobody has refreshed: where that matters, it is told.
    assert (proof.mismatches, proof.ledger) == ((), ())
    assert sum(day.stored for day in days) == 4
    assert sizes


def test_partition_of_the_writer_is_the_owners_and_as_its_table(place: Place) -> None:
    """What a late batch needed is made by the writer, belongs to the owner, and leaves nothing to be put right."""
    with place.store() as store, place.connected() as connection:
        owners = {
            owner
            for table in Table
            for part in store.partitions(table, Tier.RAW)
            for (owner,) in connection.execute(
                "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = %s", (part.name,)
            )
        }

    assert owners == {place.names.owner}
    assert place.plan() == []


def test_writer_lives_without_the_owner(database_servers: Servers, engine_name: str) -> None:
    """Agents, batches, gaps and sessions are the writer's; refreshing, closing and dropping are not, and say so."""
    with lent(database_servers, engine_name) as place:
        place.apply()
        now = datetime.now(UTC)
        with place.store(place.names.writer) as store:
            store.check_schema()
            write(store)
            assert store.server_identity()
            store.abandon(range(7, 9), str(Spool().spool_id), "spool_full")
            store.ensure_partitions(Window(now, now + timedelta(days=40)))
            agents = AgentRepository(store.engine)
            agents.sync([replace(SPEC, name="b"), replace(SPEC, name="c")], "file", now)
            # Within the same moment: the schedule that was never in force leaves no row.
            agents.sync([replace(SPEC, name="b", interval_s=30)], "file", now)
            agents.add(replace(SPEC, name="d"), now)
            agents.pause("d", now)
            agents.retire("d", now)
            agents.fingerprint()
            store.close_session(SESSION)
            assert not store.may_maintain()
            for attempt in (
                lambda: refresh_all(store, now),
                lambda: store.close_below(Table.HEALTH, Tier.RAW, now),
                lambda: store.drop_below(Table.HEALTH, Tier.RAW, datetime(1970, 1, 1, tzinfo=UTC)),
                store.drop,
            ):
                with pytest.raises(TransientStorageError) as raised:
                    attempt()
                assert raised.value.sqlstate == "42501"

        assert place.plan() == []


def test_owner_maintains(database_servers: Servers, engine_name: str) -> None:
    """Upgrade, refresh, proof, retention: all of it with the owner's rights, and nothing else."""
    with lent(database_servers, engine_name) as place:
        place.apply()
        now = datetime.now(UTC)
        with place.store(place.names.writer) as store:
            write(store)
        with place.store(place.names.owner) as store:
            assert store.may_maintain()
            schema.upgrade(store.engine)
            store.provision()
            store.ensure_partitions(Window(now, now + timedelta(days=3)))
            refreshed = refresh_all(store, now)
            proof = verify(store, now)
            result = retention.apply(store, RetentionPolicy(), now)
            kept = store.query("SELECT n FROM health_1d ORDER BY bucket").rows
            raw = store.query("SELECT count(*) FROM health_checks").rows

        assert refreshed.buckets >= 3 * len(Table)
        assert proof.holds
        assert [step.message for step in result.steps if step.message] == []
        assert sum(len(step.dropped) for step in result.steps) >= len(Table)
        assert (kept, raw) == ([(2,)], [(0,)])
        assert place.plan() == []


@pytest.mark.needs(Capability.COLUMNSTORE)
def test_late_rows_and_jobs_go_on_in_columns(database_servers: Servers, engine_name: str) -> None:
    """A chunk that the owner turned to columns takes late rows of the writer; the server's jobs run as the owner."""
    with lent(database_servers, engine_name) as place:
        with place.store() as store:
            write(store)
        place.apply()
        now = datetime.now(UTC)
        with place.connected(place.names.owner) as connection:
            jobs = connection.execute(
                "SELECT job_id, owner::text FROM timescaledb_information.jobs WHERE hypertable_name IS NOT NULL"
            ).fetchall()
            connection.execute("SELECT compress_chunk(c) FROM show_chunks('health_checks') AS c")
            for job, _ in jobs:
                connection.execute("CALL run_job(%s)", (job,))
        with place.store(place.names.writer) as store:
            result = store.write(Spool().batch(checks=[("a", LONG_AGO + timedelta(minutes=5), Outcome.HEALTHY, 1.0)]))
        with place.store(place.names.owner) as store:
            refresh_all(store, now)
        with place.store(place.names.reader) as store:
            seen = store.query("SELECT n FROM health_1d").rows

        assert {owner for _, owner in jobs} == {place.names.owner}
        assert result.accepted == 1
        assert seen == [(3,)]
        assert place.plan() == []


def test_owner_is_no_superuser(place: Place) -> None:
    """The owner rules over its own: no other schema, no role, no file."""
    statements = (
        "SELECT * FROM elsewhere.secrets",
        "CREATE ROLE mine",
        "CREATE SCHEMA mine",
        "CREATE DATABASE mine",
        "SELECT pg_read_file('PG_VERSION')",
        "COPY agents TO PROGRAM 'cat'",
        "SET ROLE {writer}",
        "ALTER SYSTEM SET fsync = off",
        "CREATE TEMPORARY TABLE mine (i int)",
    )

    assert {refused(place, place.names.owner, statement) for statement in statements} == {"42501"}


def test_new_table_of_the_owner_is_read_at_once(database_servers: Servers, engine_name: str) -> None:
    """What an upgrade brings, reader and writer read before anybody grants it; they write it after that."""
    with lent(database_servers, engine_name) as place:
        place.apply()
        with place.connected(place.names.owner) as connection:
            connection.execute("CREATE TABLE brand_new (i int)")
        with place.connected(place.names.reader) as connection:
            connection.execute("SELECT * FROM brand_new")
        with place.connected(place.names.writer) as connection:
            connection.execute("SELECT * FROM brand_new")
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute("INSERT INTO brand_new VALUES (1)")


def test_rollups_of_every_tier_are_read_through_views(place: Place) -> None:
    """Views show the reader what was written, refreshed or not."""
    with place.store(place.names.reader) as store:
        counts = {tier: store.query(f"SELECT sum(n)::int FROM health_{tier.value}").rows[0][0] for tier in ROLLUPS}  # noqa: S608  # names of tiers
        with store.engine.connect() as connection:
            for table in Table:
                for tier in ROLLUPS:
                    connection.execute(text(f"SELECT count(*) FROM {parent(table, tier)}"))  # noqa: S608  # names of tables

    assert set(counts.values()) == {2}


def test_reader_sees_the_dashboards(place: Place) -> None:
    """Every statement of Grafana's dashboards, its variables among them, is one that the reader may run."""
    now = datetime.now(UTC)
    asked = 0
    with place.connected(place.names.reader) as connection:
        for path in PATHS:
            for back in (timedelta(hours=3), timedelta(days=7), timedelta(days=200)):
                window = Window(now - back, now)
                values: dict[str, str] = {}
                for variable in variables_of(path):
                    row = connection.execute(expand(variable.sql, window, values).encode()).fetchone()
                    values[variable.panel["name"]] = "a" if row is None else str(row[0])
                for statement in statements_of(path):
                    connection.execute(expand(statement.sql, window, values).encode())
                    asked += 1

    assert asked > 30
