"""
The time-series half as earlier versions made it: brought up to date with everything that it holds.
"""

from __future__ import annotations

import re
from datetime import timedelta
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


def restore(url: str, file: Path) -> None:
    """Fill an empty database with what *file* holds."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(file.read_text(encoding="utf-8").encode())


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
    old = open_store(empty_database_url)
    try:
        before = old.timeseries_version()
        schema.upgrade(old.engine)
        with pytest.raises(SchemaMismatch, match=rf"version {number}"):
            old.check_schema()
        old.provision()
        old.provision()
        old.check_schema()
        marked = old.query("SELECT count(*) FROM marks").rows
        rows = old.query("SELECT bucket, n, sum FROM agent_metrics_1h").rows
        proof = verify(old, LATER)
        after = old.query(CATALOG).rows
        differences = schema.check(old.engine)
        written = old.write(Spool().batch(samples=[("a", "m", NOON + timedelta(days=70), 1.0)]))
        refresh_all(old, LATER + timedelta(days=40))
        held = verify(old, LATER + timedelta(days=40)).holds
        parts = [part.name for step in plan(old, POLICY, LATER) for part in step.partitions]
    finally:
        old.close()

    assert before == (number, max(POSTGRESQL))
    assert after == store.query(CATALOG).rows
    assert differences == []
    assert marked == [(4,)]
    assert rows == [(NOON, 4, pytest.approx(9.3))]
    assert proof.holds
    assert written.accepted == 1
    assert held
    assert any(re.match(r"agent_metrics_2\d+", part) for part in parts)
