"""
A service on both sides of a fork: each side answers, nothing is lost, and neither ends what is the other's.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from storage.open import open_store
from storage.store import Store
from tests.forked import CHILDREN, TASKS
from tests.servers import Servers

#: One address, two sides: where all connections share one session there are none.
KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
FORBIDDEN = "StorageError: database in memory is that of the process which made it: use a file to share one"


def told(url: str, case: str) -> list[str]:
    """Return what the children of the program said, which ended in time and complained of nothing."""
    warnings = ("-W", "error::ResourceWarning", "-W", "ignore::DeprecationWarning")
    done = subprocess.run(
        [sys.executable, *warnings, "-m", "tests.forked", url, case],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    answer: list[str] = json.loads(done.stdout)
    return answer


def written(store: Store) -> tuple[int, float, int]:
    """Return the number of tasks, the sum of the values, and how many sessions of clients have not ended."""
    asked = (
        "SELECT (SELECT count(*) FROM tasks), (SELECT sum(value) FROM agent_metrics),"
        " (SELECT count(*) FROM collector_sessions WHERE ended_at IS NULL)"
    )
    [(tasks, total, sessions)] = store.query(asked).rows
    return int(str(tasks)), float(str(total)), int(str(sessions))


@KINDS
def test_both_sides_of_a_fork_work(database_servers: Servers, kind: str) -> None:
    """Parent and children write at once, and after the children have ended the parent's sessions are there, and every row."""
    with database_servers.database(kind) as url:
        *said, lost = told(url, "idle")
        store = open_store(url)
        try:
            found = written(store)
        finally:
            store.close()

    assert said == ["None"] * CHILDREN
    # The writer's own, and one of the pool.
    assert lost == ("lost 0 of 0" if kind == "sqlite" else "lost 0 of 2")
    assert found == ((CHILDREN + 2) * TASKS, CHILDREN + 2, 0)


def test_child_outlives_the_connections_of_its_parent(database_servers: Servers) -> None:
    """What a child commits after its parent has closed the file, and another one has opened it, stays."""
    with database_servers.database("sqlite") as url:
        said = told(url, "closed")
        store = open_store(url)
        try:
            found = written(store)
        finally:
            store.close()

    assert said == ["None"]
    assert found[:2] == (3 * TASKS, 3)


@KINDS
def test_fork_in_the_middle_of_a_transaction(database_servers: Servers, kind: str) -> None:
    """
    What another thread holds at that moment does not hold up a child, and its transaction is committed by the parent.

    SQLite forbids the child to use a file that was in use: it is told, and can do no harm.
    """
    with database_servers.database(kind) as url:
        [said] = told(url, "busy")
        store = open_store(url)
        try:
            found = written(store)
            hosts = store.query("SELECT name FROM hosts").rows
            whole = store.query("PRAGMA integrity_check").rows if kind == "sqlite" else [("ok",)]
        finally:
            store.close()

    assert hosts == [("held",)]
    assert whole == [("ok",)]
    if kind == "sqlite":
        assert said.startswith("StorageError: database /")
        assert said.endswith("forbids to use it here: fork while nobody uses it, or start processes by spawn")
        assert found == (TASKS, 1, 0)
    else:
        assert said == "None"
        assert found == (2 * TASKS, 2, 0)


def test_database_in_memory_is_one_process_s() -> None:
    """A child does not write into a copy that nobody else sees: it is told."""
    assert told("sqlite://", "busy") == [FORBIDDEN]
