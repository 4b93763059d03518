"""
The generated history: whole, provable, and the same each time.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from fleetpulse.sample import sample_fleet
from reports.run import run
from rollups.verify import verify
from storage.errors import InputError, StorageError
from storage.model import EPOCH, Table, Tier, Window
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


#: Arguments that make no sense, and what is said of them.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"days": 0}, "days is 0, expected a whole number from 1 to 60"),
    ({"days": 61}, "days is 61, expected a whole number from 1 to 60"),
    ({"days": 1.5}, "days is 1.5, expected a whole number"),
    ({"days": True}, "days is True, expected a whole number"),
    ({"days": "3"}, "days is '3', expected a whole number"),
    ({"seed": -1}, "seed is -1, expected a whole number of 0 or more"),
    ({"seed": "x"}, "seed is 'x', expected a whole number of 0 or more"),
    ({"end": NOON.replace(tzinfo=None)}, "end is datetime.datetime(2026, 3, 10, 12, 0), expected an aware moment"),
    ({"end": "2026-01-01"}, "end is '2026-01-01', expected an aware moment"),
    ({"end": EPOCH + timedelta(hours=12), "days": 1}, "end is 1970-01-01T12:00:00+00:00, expected 1970-01-02 to a day"),
    (
        {"end": datetime(2200, 1, 1, tzinfo=UTC)},
        "end is 2200-01-01T00:00:00+00:00, expected 1970-01-04 to a day from now",
    ),
    ({"end": datetime.now(UTC) + timedelta(days=2)}, "expected 1970-01-04 to a day from now"),
]


def test_arguments_that_make_no_sense_are_refused(store: Store) -> None:
    """Nothing is written for a history that could not be written whole."""
    for arguments, said in WRONG:
        with pytest.raises(InputError, match=re.escape(said)):
            sample_fleet(store, **arguments)
    store.close_below(Table.AGENT, Tier.RAW, NOON)
    with pytest.raises(
        InputError, match=r"begin at .*, the database takes rows from 2026-03-.* on: give it a later end"
    ):
        sample_fleet(store, days=1, end=NOON)
    with pytest.raises(InputError, match="store is None, expected a Store"):
        sample_fleet(cast(Store, None))
    assert store.query("SELECT (SELECT count(*) FROM agents), (SELECT count(*) FROM tasks)").rows == [(0, 0)]


def test_rows_that_are_refused_are_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history with a gap would be taken for a fleet that was down."""
    monkeypatch.setattr("fleetpulse.sample.MAX_DATED_AHEAD", timedelta(days=20))

    with pytest.raises(StorageError, match=r"refused a part of the history: .* too_far_ahead: begin again"):
        sample_fleet(store, days=1, end=datetime.now(UTC) + timedelta(days=10))
