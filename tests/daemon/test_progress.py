"""
Agents that answer and get nowhere, end to end: a real daemon, agents over HTTP, tasks and heartbeats in a database.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from collector.config import ProgressRules
from storage.model import AgentSpec
from storage.open import open_store
from storage.repositories import AgentRepository
from storage.repositories.tasks import TaskRepository
from storage.store import Store
from tests.daemon.collector_process import CollectorProcess
from tests.daemon.conditions import eventually
from tests.servers import Servers
from tests.work_history import Run, history


@dataclass
class Worker:
    """An agent that answers every poll, and gets somewhere as long as it *works*."""

    url: str = ""
    works: bool = True
    done: int = 0

    def metrics(self) -> bytes:
        """Return its exposition; some work is done between two polls."""
        self.done += self.works
        return f"# TYPE tasks_done_total counter\ntasks_done_total {self.done}\n".encode()


@pytest.fixture
def worker() -> Iterator[Worker]:
    """Return an agent that listens."""
    found = Worker()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = found.metrics()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            found.url = f"http://127.0.0.1:{server.server_port}/metrics"
            yield found
        finally:
            server.shutdown()
            thread.join()


def spec(name: str, worker: Worker, type: str = "worker") -> AgentSpec:
    """Return the agent *name*, polled every second at the address of *worker*."""
    return AgentSpec(name=name, type=type, endpoint=worker.url, interval_s=1.0, timeout_s=0.8)


def changes(store: Store, name: str) -> list[tuple[str, str, str]]:
    """Return the changes of status of agent *name* so far: from, to and why."""
    found = store.query(
        "SELECT e.from_status, e.to_status, e.reason FROM status_events e JOIN agents a ON a.id = e.agent_id"
        " WHERE a.name = :name ORDER BY e.ts, e.id",
        {"name": name},
    )
    return [(str(old), str(new), str(reason)) for old, new, reason in found.rows]


def checks(store: Store, name: str) -> list[tuple[int, str]]:
    """Return outcome and reason of each check of agent *name* so far."""
    found = store.query(
        "SELECT c.outcome, r.reason FROM health_checks c JOIN agents a ON a.id = c.agent_id"
        " LEFT JOIN reasons r ON r.id = c.reason_id WHERE a.name = :name ORDER BY c.ts",
        {"name": name},
    )
    return [(int(str(outcome)), str(reason or "")) for outcome, reason in found.rows]


def test_counter_that_stands_still(worker: Worker, store: Store, database_url: str, tmp_path: Path) -> None:
    """It answers 200 all the time: healthy, stalled with the reason, through a restart of the daemon, and healthy again."""
    rules = {"worker": ProgressRules(counter="tasks_done_total", counter_within_s=2.0)}
    home, agents = tmp_path / "home", [spec("w", worker)]
    with CollectorProcess(home, database_url, agents, tmp_path / "log", progress=rules) as collector:
        eventually(lambda: changes(store, "w"), "first poll")
        worker.works = False
        eventually(lambda: len(changes(store, "w")) == 2, "stall")
        assert collector.stop() == 0
    polled = len(checks(store, "w"))
    with CollectorProcess(home, database_url, agents, tmp_path / "log2", progress=rules) as collector:
        eventually(lambda: len(checks(store, "w")) >= polled + 2, "polls after the restart")
        worker.works = True
        eventually(lambda: len(changes(store, "w")) == 3, "recovery")
        assert collector.stop() == 0
    first, stalled, recovered = changes(store, "w")
    found = checks(store, "w")

    assert first == ("unknown", "healthy", "")
    assert stalled[:2] == ("healthy", "stalled")
    assert stalled[2].startswith("counter tasks_done_total has not increased for ")
    assert stalled[2].endswith(" (limit 2s)")
    assert recovered == ("stalled", "healthy", "")
    assert {outcome for outcome, _ in found} <= {0, 3, 7}
    assert (3, "stalled before the collector started, counter tasks_done_total has not increased since") in found


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_tasks_and_heartbeats(worker: Worker, database_servers: Servers, engine: str, tmp_path: Path) -> None:
    """A task that runs for too long, and heartbeats that stop, stall the agents that they are about, until that ends."""
    with database_servers.database(engine) as url, closing(open_store(url)) as store:
        stall_and_recover(worker, store, url, tmp_path)


def stall_and_recover(worker: Worker, store: Store, url: str, folder: Path) -> None:
    """Run a daemon on agents whose task and heartbeats are late, and then are not."""
    agents = AgentRepository(store.engine)
    tasks = TaskRepository(store.engine)
    rules = {
        "worker": ProgressRules(task_p95_factor=3.0, task_min_s=60.0),
        "beating": ProgressRules(heartbeat_within_s=2.0),
    }
    pushing = AgentSpec(name="pushing", probe="heartbeat", interval_s=1.0, timeout_s=1.0, options={"within": "2s"})
    now = store.now()
    agents.add(spec("busy", worker), now)
    agents.add(spec("idle", worker), now)
    agents.add(spec("beating", worker, type="beating"), now)
    agents.add(pushing, now)
    with history(store, now) as work:
        for k in range(20):
            work.task("summarise", Run("idle", k - 100, k - 90, "completed"), state="completed")
        task = work.task("summarise", Run("busy", -120), state="running")

    def beat() -> None:
        for name in ("beating", "pushing"):
            agents.heartbeat(name, store.now())

    def status(name: str) -> str:
        return agents.get(name).status

    def beating_until(name: str, wanted: str) -> bool:
        beat()
        return status(name) == wanted

    with CollectorProcess(folder / "home", url, [], folder / "log", progress=rules) as collector:
        for name in ("beating", "pushing"):
            eventually(lambda: beating_until(name, "healthy"), f"heartbeats of {name}")  # noqa: B023
        for name in ("beating", "pushing", "busy"):
            eventually(lambda: status(name) == "stalled", f"stall of {name}")  # noqa: B023
        tasks.set_state(task, "completed", now=store.now())
        for name in ("beating", "pushing"):
            eventually(lambda: beating_until(name, "healthy"), f"recovery of {name}")  # noqa: B023
        eventually(lambda: status("busy") == "healthy", "recovery of busy")
        assert collector.stop() == 0
        assert [event for event in collector.events() if event["level"] in ("error", "critical")] == []
    (_, late), (_, late_push) = (
        [c[1:] for c in changes(store, n) if c[1] == "stalled"][-1] for n in ("beating", "pushing")
    )
    (stalled,) = [reason for _, new, reason in changes(store, "busy") if new == "stalled"]

    assert stalled.startswith(f"task {task} (summarise) runs for 2m")
    assert stalled.endswith(", 3 × p95 of its type is 30s")
    assert late.startswith("heartbeat is ")
    assert late.endswith(" old, expected one every 2s")
    assert late_push.endswith(" old, expected one every 2s")
    assert {new for _, new, _ in changes(store, "idle")} == {"healthy"}
    assert {outcome for outcome, _ in checks(store, "pushing")} <= {0, 3, 7}


def test_database_that_is_away_stalls_nobody(worker: Worker, store: Store, database_url: str, tmp_path: Path) -> None:
    """What was read last makes nobody stalled while nothing can be read; slots of pushing agents are skipped meanwhile."""
    agents = AgentRepository(store.engine)
    now = store.now()
    agents.add(
        AgentSpec(name="pushing", probe="heartbeat", interval_s=1.0, timeout_s=1.0, options={"within": "1h"}), now
    )
    agents.add(spec("beating", worker, type="beating"), now)
    for name in ("pushing", "beating"):
        agents.heartbeat(name, now)
    rules = {"beating": ProgressRules(heartbeat_within_s=3_600.0)}
    away = "heartbeats cannot be read: database is away"
    with CollectorProcess(tmp_path / "home", database_url, [], tmp_path / "log", progress=rules) as collector:
        for name in ("pushing", "beating"):
            eventually(lambda: agents.get(name).status == "healthy", f"first heartbeat of {name}")  # noqa: B023
        before = len(checks(store, "beating"))
        _lock_out(database_url, locked=True)
        try:
            eventually(
                lambda: [event for event in collector.events() if event.get("event") == "database_down"], "outage"
            )
            asked = worker.done
            eventually(lambda: worker.done >= asked + 3, "polls in the outage")
        finally:
            _lock_out(database_url, locked=False)
        eventually(lambda: (7, away) in checks(store, "pushing"), "skipped slots")
        eventually(lambda: checks(store, "pushing")[-1][0] == 0, "heartbeats after the outage")
        eventually(lambda: len(checks(store, "beating")) > before + 3, "polls after the outage")
        assert collector.stop() == 0

    assert [new for _, new, _ in changes(store, "pushing")] == ["healthy"]
    assert [new for _, new, _ in changes(store, "beating")] == ["healthy"]
    assert 3 not in {outcome for name in ("pushing", "beating") for outcome, _ in checks(store, name)}


def _lock_out(url: str, *, locked: bool) -> None:
    """Keep everybody out of the database, those that are in it too; or let them in again."""
    address = make_url(url)
    home = address.set(database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(home, autocommit=True) as connection:
        closed = psycopg.sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}").format(
            psycopg.sql.Identifier(str(address.database)), psycopg.sql.SQL("false" if locked else "true")
        )
        connection.execute(closed)
        if locked:
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            connection.execute(ended, (address.database,))
