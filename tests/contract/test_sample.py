"""
The generated history: whole, provable, and the same each time.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from fleetpulse.sample import sample_fleet
from reports.run import run
from rollups.verify import verify
from storage.errors import InputError
from storage.model import Window
from storage.store import Store
from tests.batches import NOON

pytestmark = pytest.mark.each_kind

DAY = timedelta(days=1)


def test_sample_is_a_whole_history(store: Store) -> None:
    """A day, of two dates: every slot has its check, rollups equal raw rows, tasks wait for what they depend on."""
    window = sample_fleet(store, days=1, end=NOON + timedelta(seconds=20))
    proof = verify(store, NOON + DAY)
    availability = run(store, "availability", window=window)
    counted = store.query(
        "SELECT (SELECT count(*) FROM health_checks), (SELECT count(DISTINCT agent_id) FROM task_assignments),"
        " (SELECT count(*) FROM workflows WHERE state = 'completed'), (SELECT count(*) FROM messages),"
        " (SELECT count(*) FROM tasks AS t JOIN task_dependencies AS d ON d.task_id = t.id"
        " JOIN tasks AS o ON o.id = d.depends_on WHERE t.started_at < o.finished_at),"
        " (SELECT count(*) FROM incidents)"
    ).rows

    assert window == Window(NOON - DAY, NOON)
    assert proof.holds
    assert [row[2] for row in availability.rows] == [1_440] * 10
    assert all(row[3] + row[4] == row[2] for row in availability.rows)  # type: ignore[operator]  # numbers
    [(checks, workers, workflows, messages, too_early, incidents)] = counted
    assert (checks, workers, too_early) == (1_440 * 10, 10, 0)
    assert [number > least for number, least in ((workflows, 10), (messages, 50), (incidents, 1))] == [True] * 3  # type: ignore[operator]  # numbers
    with pytest.raises(InputError, match="has agents already"):
        sample_fleet(store)


def test_days_out_of_range_are_refused(store: Store) -> None:
    """Nothing is written for a history of no days."""
    with pytest.raises(InputError, match="days is 0, expected 1 to 60"):
        sample_fleet(store, days=0)
    assert store.query("SELECT count(*) FROM agents").rows == [(0,)]
