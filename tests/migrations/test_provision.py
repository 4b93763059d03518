"""
The time-series half as earlier versions made it: brought up to date with everything that it holds.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from rollups.refresh import refresh_all
from rollups.retention import plan
from rollups.verify import verify
from storage import schema
from storage.errors import SchemaMismatch
from storage.lite import provision as sqlite
from storage.open import open_store
from storage.postgresql import STEPS as POSTGRESQL
from storage.store import Capability, Store
from storage.timescaledb import STEPS as TIMESCALEDB
from tests.batches import NOON, Spool
from tests.contract.test_retention import POLICY
from tests.servers import Servers

#: One file for each version that an engine has had: a populated database.
PROVISIONED = Path(__file__).parent / "provisioned"
LATER = NOON + timedelta(days=40)

#: What a server holds, down to bodies and definitions; partitions are those of the rows.
CATALOG = """
SELECT 'relation', c.relkind::text, c.relname::text,
       coalesce(pg_get_viewdef(c.oid), '') || coalesce(pg_get_partkeydef(c.oid), '')
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition AND c.relkind IN ('r', 'p', 'v')
UNION ALL
SELECT 'column', c.relname::text, a.attname::text,
       format_type(a.atttypid, a.atttypmod) || a.attnotnull || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition AND c.relkind IN ('r', 'p', 'v')
UNION ALL
SELECT 'index', c.relname::text, pg_get_indexdef(c.oid), ''
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition AND c.relkind IN ('i', 'I')
UNION ALL
SELECT 'routine', p.oid::regprocedure::text,
       CASE WHEN p.prokind = 'f' THEN pg_get_functiondef(p.oid) ELSE '' END, coalesce(p.proacl::text, '')
FROM pg_proc AS p
WHERE p.pronamespace = 'public'::regnamespace
UNION ALL
SELECT 'constraint', r.relname::text, c.conname::text, pg_get_constraintdef(c.oid)
FROM pg_constraint AS c
JOIN pg_class AS r ON r.oid = c.conrelid
WHERE c.connamespace = 'public'::regnamespace AND NOT r.relispartition
ORDER BY 1, 2, 3
"""


#: What TimescaleDB does on its own, beside what its relations are.
JOBS = """
SELECT h.table_name::text, j.proc_name::text, j.schedule_interval::text,
       (j.config - 'mat_hypertable_id' - 'hypertable_id')::text
FROM timescaledb_information.jobs AS j
JOIN _timescaledb_catalog.hypertable AS h
    ON h.id = coalesce((j.config ->> 'mat_hypertable_id')::int, (j.config ->> 'hypertable_id')::int)
ORDER BY 1, 2
"""
SQLITE_CATALOG = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"


def restore(url: str, file: Path) -> None:
    """Fill an empty database with what *file* holds; a blank line ends what is executed at once."""
    with psycopg.connect(url, autocommit=True) as connection:
        for part in file.read_text(encoding="utf-8").split("\n\n"):
            connection.execute(part.encode())


@contextmanager
def new_store(url: str) -> Iterator[Store]:
    """Return a store on a database that is closed in the end."""
    found = open_store(url)
    try:
        yield found
    finally:
        found.close()


def bring_up_to_date(old: Store, number: int, newest: int) -> None:
    """Take *old* from version *number* to *newest*, as ``fleetpulse db upgrade`` does."""
    before = old.timeseries_version()
    schema.upgrade(old.engine)
    with pytest.raises(SchemaMismatch, match=rf"version {number}"):
        old.check_schema()
    old.provision()
    old.provision()
    old.check_schema()

    assert before == (number, newest)
    assert schema.check(old.engine) == []
    assert old.query("SELECT count(*) FROM marks").rows == [(4,)]


def insist_on_going_on(old: Store) -> None:
    """What was there is rolled up right, and what comes then is."""
    refresh_all(old, LATER)
    rows = old.query("SELECT bucket, n, sum FROM agent_metrics_1h", types={"bucket": datetime}).rows
    proof = verify(old, LATER)
    written = old.write(Spool().batch(samples=[("a", "m", NOON + timedelta(days=70), 1.0)]))
    refresh_all(old, LATER + timedelta(days=40))

    assert rows == [(NOON, 4, pytest.approx(9.3))]
    assert proof.holds
    assert written.accepted == 1
    assert verify(old, LATER + timedelta(days=40)).holds


def test_every_earlier_version_has_its_database() -> None:
    """Whoever adds a step adds what it starts from."""
    newest = {"postgresql": max(POSTGRESQL), "timescaledb": max(TIMESCALEDB), "sqlite": max(sqlite.STEPS)}
    there = {file.stem for file in PROVISIONED.iterdir()}

    assert there == {f"{engine}-{number}" for engine, last in newest.items() for number in range(1, last)}


@pytest.mark.needs(Capability.EXACT_VIEWS, Capability.SEVERAL_WRITERS)
@pytest.mark.parametrize("number", range(1, max(POSTGRESQL)))
def test_version_of_postgresql_is_brought_up_to_date(number: int, store: Store, empty_database_url: str) -> None:
    """From each version the database becomes what a new one is; rows, rollups and marks are kept, and it goes on."""
    restore(empty_database_url, PROVISIONED / f"postgresql-{number}.sql")
    with new_store(empty_database_url) as old:
        bring_up_to_date(old, number, max(POSTGRESQL))
        rows = old.query("SELECT bucket, n, sum FROM agent_metrics_1h").rows
        proof = verify(old, LATER)
        after = old.query(CATALOG).rows
        insist_on_going_on(old)
        parts = [part.name for step in plan(old, POLICY, LATER) for part in step.partitions]

    assert after == store.query(CATALOG).rows
    assert rows == [(NOON, 4, pytest.approx(9.3))]
    assert proof.holds
    assert any(re.match(r"agent_metrics_2\d+", part) for part in parts)


@pytest.mark.needs(Capability.COLUMNSTORE)
@pytest.mark.parametrize("number", range(1, max(TIMESCALEDB)))
def test_version_of_timescaledb_is_brought_up_to_date(number: int, database_servers: Servers, engine_name: str) -> None:
    """The same there, the server's own jobs included; the late row shows with the refresh of its bucket."""
    with database_servers.database(engine_name) as url, new_store(url) as new:
        expected = new.query(CATALOG).rows, new.query(JOBS).rows
    with database_servers.database(engine_name, empty=True) as url:
        restore(url, PROVISIONED / f"timescaledb-{number}.sql")
        with new_store(url) as old:
            bring_up_to_date(old, number, max(TIMESCALEDB))
            rows = old.query("SELECT bucket, n, sum FROM agent_metrics_1h").rows
            after = old.query(CATALOG).rows, old.query(JOBS).rows
            insist_on_going_on(old)

    assert after == expected
    assert rows == [(NOON, 3, pytest.approx(0.3))]


@pytest.mark.parametrize("number", range(1, max(sqlite.STEPS)))
def test_version_of_sqlite_is_brought_up_to_date(number: int, tmp_path: Path) -> None:
    """The same there."""
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.executescript((PROVISIONED / f"sqlite-{number}.sql").read_text(encoding="utf-8"))
    with new_store(f"sqlite:///{tmp_path / 'new.db'}") as new:
        schema.upgrade(new.engine)
        new.provision()
        expected = new.query(SQLITE_CATALOG).rows
    with new_store(f"sqlite:///{tmp_path / 'old.db'}") as old:
        bring_up_to_date(old, number, max(sqlite.STEPS))
        rows = old.query("SELECT bucket, n, sum FROM agent_metrics_1h", types={"bucket": datetime}).rows
        after = old.query(SQLITE_CATALOG).rows
        insist_on_going_on(old)

    assert after == expected
    assert rows == [(NOON, 4, pytest.approx(9.3))]
