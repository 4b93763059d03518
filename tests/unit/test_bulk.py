"""
Many rows in one statement: whatever they have in common, and however many they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from storage.database import DatabaseManager
from storage.models import Base
from storage.repositories.bulk import insert_alike
from storage.store import Store
from storage.transactions import writing

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOSTS = Base.metadata.tables["hosts"]


@pytest.fixture
def memory() -> Iterator[Store]:
    """Return a fresh database in memory."""
    with DatabaseManager("sqlite://") as manager:
        manager.create_schema()
        yield manager.store


def inserted(store: Store, rows: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    """Insert hosts; return name and labels as they are stored, by name."""
    with writing(store.engine).begin() as connection:
        answer = insert_alike(connection, HOSTS, rows, returning=("id", "name"))

    assert {(row.name, row.id) for row in answer} == set(store.query("SELECT name, id FROM hosts").rows)
    return [tuple(row) for row in store.query("SELECT name, labels, created_at FROM hosts ORDER BY name").rows]


def host(name: str, **labels: str) -> dict[str, Any]:
    """Return a row."""
    return {"name": name, "labels": labels, "created_at": NOW}


def test_what_is_common_and_what_is_not(memory: Store) -> None:
    """Rows come out as they went in, with a column in common or without."""
    stamp = int(NOW.timestamp() * 1_000_000)

    assert inserted(memory, [host("a", k="1"), host("b", k="1"), host("c:d%s'", k="2")]) == [
        ("a", '{"k": "1"}', stamp),
        ("b", '{"k": "1"}', stamp),
        ("c:d%s'", '{"k": "2"}', stamp),
    ]


def test_what_python_takes_for_equal_is_not_common(memory: Store) -> None:
    """1 and true are equal to Python, and not the same labels."""
    rows = [host("a") | {"labels": {"k": 1}}, host("b") | {"labels": {"k": True}}, host("c") | {"labels": {"k": 1.0}}]

    assert [row[1] for row in inserted(memory, rows)] == ['{"k": 1}', '{"k": true}', '{"k": 1.0}']


def test_one_and_none(memory: Store) -> None:
    """One row, or none, is no special case for the caller."""
    assert inserted(memory, []) == []
    assert [row[0] for row in inserted(memory, [host("a")])] == ["a"]


def test_more_than_one_statement_takes(memory: Store) -> None:
    """Rows beyond what a statement takes go in with the next one."""
    rows = [{**host(f"h-{k}", k=str(k)), "created_at": NOW + timedelta(seconds=k)} for k in range(1_100)]

    assert len(inserted(memory, rows)) == 1_100


def test_rows_that_are_all_the_same(memory: Store) -> None:
    """Rows without any difference are as many as were handed over."""
    events = Base.metadata.tables["workflow_events"]
    row = {"workflow_id": 1, "ts": NOW, "to_state": "pending"}
    with writing(memory.engine).begin() as connection:
        connection.execute(text("INSERT INTO workflows (name, type, created_at) VALUES ('a', 'a', 1)"))
        answer = insert_alike(connection, events, [row] * 3)

    assert answer == []
    assert memory.query("SELECT count(*) FROM workflow_events").rows == [(3,)]
