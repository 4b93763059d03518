"""
Kill -9 under load: what the fleet answered is in the database, once, and the counters add up.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import cast

import pytest

from collector.simulator.fleet import FleetProcess
from collector.simulator.log import counter_totals, read_log
from storage.model import AgentSpec, Window, from_us, to_us
from storage.store import Store
from tests.daemon.collector_process import CollectorProcess
from tests.daemon.conditions import eventually

#: Fewest polls of the fleet per life of a collector.
POLLS = 60


def served(log: Path) -> int:
    """Return how many requests the fleet has answered."""
    return sum(1 for request in read_log(log) if request.done_us is not None)


def checks(store: Store) -> list[tuple[str, int, int]]:
    """Return agent, due time and how often it is there, of every polled slot of the fleet."""
    found = store.query(
        "SELECT a.name, c.ts AS due, count(*) AS n FROM health_checks c JOIN agents a ON a.id = c.agent_id"
        " WHERE a.probe = 'http' AND c.outcome < 7 GROUP BY 1, 2",
        types={"due": datetime},
    )
    return [(str(name), to_us(cast(datetime, due)), int(str(n))) for name, due, n in found.rows]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FleetProcess]:
    """Return a fleet of forty that is mostly well."""
    with FleetProcess(agents=40, faults="3:500s;5:refused;7:counter_reset@4s", log=tmp_path / "fleet.log") as found:
        yield found


def telling_due(fleet: FleetProcess) -> list[AgentSpec]:
    """Return the fleet's agents, each told its slot, so that every request can be matched with its check."""
    return [
        replace(spec, options={**spec.options, "due_header": True}) for spec in fleet.specs(interval_s=1, timeout_s=0.8)
    ]


@pytest.mark.every_engine
def test_killed_collector_loses_nothing_and_doubles_nothing(
    fleet: FleetProcess, store: Store, database_url: str, tmp_path: Path
) -> None:
    """Every poll answered more than a second before a kill is a check, exactly once; counter sums equal the totals."""
    log = tmp_path / "fleet.log"
    specs = telling_due(fleet)
    killed_us: list[int] = []
    lives: list[tuple[int, int]] = []
    for turn in range(3):
        before = served(log)
        with CollectorProcess(tmp_path / "home", database_url, specs, tmp_path / "collector.log") as collector:
            started_us = time.time_ns() // 1000
            eventually(lambda: served(log) >= before + POLLS, "polls of the fleet")  # noqa: B023  # called at once
            if turn < 2:
                killed_us.append(time.time_ns() // 1000)
                collector.kill()
            else:
                assert collector.stop() == 0
        lives.append((started_us, time.time_ns() // 1000))
    requests = [r for r in read_log(log) if r.done_us is not None]
    found = checks(store)
    stored = {(name, due) for name, due, _ in found}

    assert [row for row in found if row[2] != 1] == []
    for request in requests:
        assert request.due_us is not None
        dying = any(kill - 1_000_000 <= (request.done_us or 0) <= kill + 500_000 for kill in killed_us)
        assert dying or (request.agent, request.due_us) in stored, f"{request} is not in the database"
    answered = {(r.agent, r.due_us) for r in requests}
    assert len(answered & stored) >= 2 * POLLS
    # Whatever else is there never reached the fleet: refused connections, for the fleet logs only what it was asked.
    assert {name for name, due in stored - answered} <= {specs[4].name}
    assert_counters(store, log, stored, specs)
    assert_ledger(store)


def assert_counters(store: Store, log: Path, stored: set[tuple[str, int]], specs: list[AgentSpec]) -> None:
    """The stored increases of each agent equal what its counters did from its first stored answer to its last."""
    sums = {
        (str(name), str(metric)): float(str(value))
        for name, metric, value in store.query(
            "SELECT a.name, m.name, sum(s.value) FROM agent_metrics s JOIN agents a ON a.id = s.agent_id"
            " JOIN metrics m ON m.id = s.metric_id WHERE m.kind = 'counter' AND m.name IN ('requests_total', 'tokens_total')"
            " GROUP BY 1, 2"
        ).rows
    }
    compared = 0
    for spec in specs:
        dues = [due for name, due in stored if name == spec.name]
        if spec.labels["format"] != "prometheus" or (spec.name, "requests_total") not in sums:
            continue
        window = Window(from_us(min(dues)), from_us(max(dues) + 1))
        totals = counter_totals(log, window)[spec.name]
        for metric, increase in totals.increase.items():
            assert sums[spec.name, metric] == increase, f"{spec.name} {metric}"
            compared += 1
    assert compared >= 8


def assert_ledger(store: Store) -> None:
    """The ledger accounts for every stored row of every day."""
    days = store.verify_ledger()
    assert days
    assert all(day.ledger == day.stored for day in days)
