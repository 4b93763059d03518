"""
The daemon, end to end: a real fleet, a real database, real signals.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.request
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from collector import daemon, writer
from collector.config import CollectorConfig, SpoolConfig
from collector.simulator.fleet import FleetProcess
from collector.simulator.log import expected_counts, read_log
from collector.spool import Spool, SpoolLocked
from rollups.policy import RetentionPolicy
from storage.errors import CollectorRunning, SchemaMismatch, SettingsError
from storage.model import AgentSpec, Outcome, from_us
from storage.open import open_store
from storage.repositories import AgentRepository
from storage.store import Store
from tests.daemon.collector_process import CollectorProcess
from tests.daemon.conditions import eventually

#: What an orderly end may take, seconds; the promise is 5, and the machine may be busy with other tests.
END_S = 5.0


def scalar(store: Store, sql: str, **parameters: object) -> object:
    """Return the one value that *sql* answers."""
    return store.query(sql, parameters).rows[0][0]


def count(store: Store, sql: str, **parameters: object) -> int:
    """Return the one number that *sql* answers."""
    return int(str(scalar(store, sql, **parameters)))


def telling_due(fleet: FleetProcess) -> list[AgentSpec]:
    """Return the fleet's agents, each told its slot, so that every request can be matched with its check."""
    return [
        replace(spec, options={**spec.options, "due_header": True}) for spec in fleet.specs(interval_s=1, timeout_s=0.5)
    ]


def port_of(collector: CollectorProcess) -> int:
    """Return the port of ``/health`` and ``/metrics``, once the collector listens."""
    started = eventually(
        lambda: [event for event in collector.events() if event.get("event") == "started"], "start of the collector"
    )
    return int(str(started[0]["port"]))


def free_port() -> int:
    """Return a port on which nothing listens."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def config(home: Path, **changes: object) -> CollectorConfig:
    """Return the smallest configuration."""
    return replace(CollectorConfig(name="test", home=home, listen_port=0), **changes)  # type: ignore[arg-type]  # fields


def run(config: CollectorConfig, url: str, run_for_s: float) -> int:
    """Run a daemon in this process."""

    async def work() -> int:
        return await daemon.run(
            config, lambda: open_store(url), policy=RetentionPolicy(), stop=asyncio.Event(), run_for_s=run_for_s
        )

    with asyncio.Runner(loop_factory=daemon.loop_factory()) as runner:
        return runner.run(work())


def test_run_with_faults_stores_what_the_fleet_served(store: Store, database_url: str, tmp_path: Path) -> None:
    """Outcomes per agent equal the fleet's log; vitals, host, rollups, session and pages are there; SIGTERM ends it."""
    log = tmp_path / "fleet.log"
    faults = "2:500s;3:hang;4:drip;5:reset;6:warn;7:garbage;8:fail;9:nan;10:dup;11:series(300);12:redirect"
    with (
        FleetProcess(agents=14, faults=faults, log=log) as fleet,
        CollectorProcess(
            tmp_path / "home", database_url, telling_due(fleet), tmp_path / "log", host="this-machine"
        ) as collector,
    ):
        port = port_of(collector)
        eventually(lambda: count(store, "SELECT count(*) FROM health_checks WHERE outcome < 7") >= 80, "polls")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            health = json.load(answer)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            families = {f.name: f for f in text_string_to_metric_families(answer.read().decode())}
        with pytest.raises(urllib.error.HTTPError, match="404") as missing:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/other", timeout=5)
        missing.value.close()
        before = time.monotonic()
        assert collector.stop() == 0
        took_s = time.monotonic() - before
        events = {str(event.get("event")) for event in collector.events()}
    stored = {
        (str(name), Outcome(int(str(outcome)))): int(str(n))
        for name, outcome, n in store.query(
            "SELECT a.name, c.outcome, count(*) FROM health_checks c JOIN agents a ON a.id = c.agent_id"
            " WHERE a.probe = 'http' AND c.outcome < 7 GROUP BY 1, 2"
        ).rows
    }
    expected = expected_counts(log)

    assert took_s < END_S
    # The end may cut one poll per agent off after the fleet saw it; such a slot is skipped.
    assert set(stored) == {key for key in expected if expected[key] > 1 or key in stored}
    assert all(0 <= expected[key] - stored[key] <= 1 for key in stored)
    assert health["status"] in ("pass", "warn")
    assert set(health["checks"]) == {"database", "spool", "schedule"}
    assert sum(s.value for s in families["fleetpulse_slots"].samples) > 0
    assert families["fleetpulse_database_up"].samples[0].value == 1.0
    assert {"started", "database_up", "stopping", "stopped", "polled"} <= events
    assert count(store, "SELECT count(*) FROM system_metrics") > 10
    assert count(
        store,
        "SELECT count(*) FROM health_checks c JOIN agents a ON a.id = c.agent_id"
        " WHERE a.name = 'fleetpulse/test' AND a.probe = 'internal'",
    )
    assert scalar(store, "SELECT ended_at IS NOT NULL AND observed_to > started_at FROM collector_sessions") is True
    assert count(store, "SELECT count(*) FROM health_1m WHERE n > 0") >= 14
    second = fleet.manifest.agents[1].name
    assert scalar(store, "SELECT status FROM agents WHERE name = :name", name=second) == "unhealthy"
    assert all(day.ledger == day.stored for day in store.verify_ledger())


def test_pause_resume_add_and_retire_while_running(store: Store, database_url: str, tmp_path: Path) -> None:
    """What a person does to agents in the database takes effect within a sync, and disturbs no other agent."""
    agents = AgentRepository(store.engine)
    with (
        FleetProcess(agents=4, log=tmp_path / "fleet.log") as fleet,
        CollectorProcess(tmp_path / "home", database_url, telling_due(fleet)[:2], tmp_path / "log") as collector,
    ):
        paused, steady, added = (spec.name for spec in fleet.specs(interval_s=1, timeout_s=0.5)[:3])
        checks = "SELECT count(*) FROM health_checks c JOIN agents a ON a.id = c.agent_id WHERE a.name = :name AND outcome = :o"
        eventually(lambda: count(store, checks, name=paused, o=0) > 1, "first polls")
        agents.pause(paused, datetime.now(UTC))
        eventually(lambda: count(store, checks, name=paused, o=8) > 1, "paused slots")
        assert agents.get(paused).status == "paused"
        agents.add(telling_due(fleet)[2], datetime.now(UTC))
        eventually(lambda: count(store, checks, name=added, o=0) > 1, "polls of the added agent")
        agents.resume(paused, datetime.now(UTC))
        healthy = count(store, checks, name=paused, o=0)
        eventually(lambda: count(store, checks, name=paused, o=0) > healthy, "polls after the pause")
        agents.retire(added, datetime.now(UTC))
        eventually(
            lambda: [e for e in collector.events() if e.get("event") == "agents" and e.get("agents") == 3],
            "end of the retired agent",
        )
        assert collector.stop() == 0
    gaps = store.query(
        "SELECT max(ts - before) FROM (SELECT c.ts, lag(c.ts) OVER (ORDER BY c.ts) AS before FROM health_checks c"
        " JOIN agents a ON a.id = c.agent_id WHERE a.name = :name) AS slots",
        {"name": steady},
    ).rows[0][0]
    changes = store.query(
        "SELECT e.from_status, e.to_status FROM status_events e JOIN agents a ON a.id = e.agent_id"
        " WHERE a.name = :name ORDER BY e.ts, e.id",
        {"name": paused},
    ).rows

    assert str(gaps) == "0:00:01"
    assert [tuple(row) for row in changes] == [
        ("unknown", "healthy"),
        ("healthy", "paused"),
        ("paused", "unknown"),
        ("unknown", "healthy"),
    ]


def test_database_away_at_start_and_back_later(store: Store, database_url: str, tmp_path: Path) -> None:
    """A daemon that starts without its database polls what it knew, agents of the database included, and catches up."""
    log = tmp_path / "fleet.log"
    agents = AgentRepository(store.engine)
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    with FleetProcess(agents=9, log=log) as fleet:
        file, other = telling_due(fleet)[:8], telling_due(fleet)[8]
        agents.add(other, datetime.now(UTC))
        with CollectorProcess(tmp_path / "home", database_url, file, tmp_path / "log") as collector:
            eventually(lambda: count(store, "SELECT count(*) FROM health_checks") > 6, "polls")
            assert collector.stop() == 0
        stored = count(store, "SELECT count(*) FROM health_checks")
        asked = len(list(read_log(log)))
        with CollectorProcess(tmp_path / "home", nowhere, file, tmp_path / "log2") as collector:
            eventually(lambda: len(list(read_log(log))) >= asked + 9, "polls without a database")
            assert collector.stop() == 0
            away = [event for event in collector.events() if event.get("event") == "database_down"]
        assert count(store, "SELECT count(*) FROM health_checks") == stored
        with CollectorProcess(tmp_path / "home", database_url, file, tmp_path / "log3") as collector:
            eventually(lambda: count(store, "SELECT count(*) FROM health_checks") >= stored + 9, "the backlog")
            assert collector.stop() == 0
    requests = {(r.agent, r.due_us) for r in read_log(log)}
    found = {
        (name, due)
        for name, due in store.query(
            "SELECT a.name, CAST(extract(epoch FROM c.ts) * 1000000 AS bigint) FROM health_checks c"
            " JOIN agents a ON a.id = c.agent_id WHERE a.probe = 'http' AND c.outcome = 0"
        ).rows
    }

    assert len(away) == 1, "a failure is said once, not at each try"
    assert {name for name, _ in requests} == {spec.name for spec in (*file, other)}
    assert len(requests - found) <= 3 * 9, "no more than the polls that an end cut off"
    assert found <= requests
    assert count(store, "SELECT count(DISTINCT (from_status, to_status, agent_id)) FROM status_events") == count(
        store, "SELECT count(*) FROM status_events"
    ), "no restart invented a transition"


def test_cut_connections_cost_no_row(store: Store, database_url: str, tmp_path: Path) -> None:
    """When the server cuts every connection of the daemon, again and again, it comes back and each slot is there once."""
    log = tmp_path / "fleet.log"
    with (
        FleetProcess(agents=16, log=log) as fleet,
        CollectorProcess(tmp_path / "home", database_url, telling_due(fleet), tmp_path / "log") as collector,
    ):
        for turn in range(1, 5):
            eventually(lambda: count(store, "SELECT count(*) FROM health_checks") >= 12 * turn, "rows")  # noqa: B023
            with store.engine.connect() as connection:
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
        asked = {(r.agent, r.due_us) for r in read_log(log)}
        dues = sorted(due for _, due in asked if due is not None)
        eventually(
            lambda: count(store, "SELECT count(*) FROM health_checks WHERE ts > :ts", ts=from_us(dues[-1])) > 8, "rows"
        )
        assert collector.stop() == 0
    found = store.query(
        "SELECT a.name, CAST(extract(epoch FROM c.ts) * 1000000 AS bigint) AS due_us, count(*) FROM health_checks c"
        " JOIN agents a ON a.id = c.agent_id WHERE a.probe = 'http' GROUP BY 1, 2"
    ).rows

    assert {n for _, _, n in found} == {1}
    assert asked <= {(name, due) for name, due, _ in found}
    assert all(day.ledger == day.stored for day in store.verify_ledger())


def test_wrong_revision_ends_the_daemon_with_the_remedy(empty_database_url: str, tmp_path: Path) -> None:
    """A database without the schema is refused, with what to do about it; the spool is free again afterwards."""
    with pytest.raises(SchemaMismatch, match="fleetpulse db upgrade"):
        run(config(tmp_path), empty_database_url, run_for_s=30)
    Spool(tmp_path, SpoolConfig()).close()


def test_second_daemon_on_one_database_is_refused(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes second waits a little for the first to go, then ends with a message that names it."""
    monkeypatch.setattr(writer, "CLAIM_S", 0.6)
    first = open_store(database_url)
    try:
        first.claim_collector("first")
        with pytest.raises(CollectorRunning, match="database is taken"):
            run(config(tmp_path), database_url, run_for_s=30)
    finally:
        first.close()


def test_second_daemon_on_one_spool_is_refused(database_url: str, tmp_path: Path) -> None:
    """The folder's lock is found before anything is polled."""
    spool = Spool(tmp_path, SpoolConfig())
    try:
        with pytest.raises(SpoolLocked, match="is in use"):
            run(config(tmp_path), database_url, run_for_s=30)
    finally:
        spool.close()


def test_taken_port_is_named_with_the_setting(database_url: str, tmp_path: Path) -> None:
    """A port that somebody else has ends the daemon before it polls; the message names setting, address and remedy."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"collector.listen 127.0.0.1:{port} cannot be used"):
            run(config(tmp_path, listen_port=port), database_url, run_for_s=30)


def test_run_for_ends_by_itself(store: Store, database_url: str, tmp_path: Path) -> None:
    """``--for`` ends the daemon with exit code 0 and a closed session."""
    assert run(config(tmp_path), database_url, run_for_s=1.5) == 0
    assert count(store, "SELECT count(*) FROM collector_sessions WHERE ended_at IS NOT NULL") == 1
