"""
How long callers of the service wait: agents and tasks are made, one of each is looked up, lists are read.

Lists and look-ups are those of a database with a million tasks and a million messages.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from sqlalchemy import text

from bench.databases import alone, fresh_store
from bench.figures import Figure, show
from storage.model import AgentSpec
from storage.repositories.tasks import TaskSpec
from storage.service import PersistenceService
from storage.store import Store

AGENTS, TASKS = 100, 50
#: Each with as many tasks, and messages about it, as the others.
WORKFLOWS = 10_000
ROWS = 1_000_000
#: Times that something is made, and asked for; the middle one counts.
MADE, ASKED = 9, 101
#: Rows of a list.
PAGE = 100

#: Agents of the database that lists are read from; one message of twenty is to everybody, one of a hundred pending.
_FILL = (
    "INSERT INTO agents (name, type, probe, endpoint, labels, interval_s, timeout_s, rise, fall, credential, options,"
    " source, created_at) SELECT 'bench-' || k, 'bench', 'heartbeat', '', '{}', 60, 10, 1, 1, '', '{}', 'api', now()"
    " FROM generate_series(1, :agents) AS k",
    "INSERT INTO workflows (name, type, created_at) SELECT 'workflow-' || k, 'bench', now()"
    " FROM generate_series(1, :workflows) AS k",
    "INSERT INTO tasks (workflow_id, type, name, state, payload, created_at, finished_at)"
    " SELECT w.low + k % :workflows, 'type-' || k % 7, 'task-' || k, 'completed', '{\"part\": 1}', now(), now()"
    " FROM generate_series(1, :rows) AS k CROSS JOIN (SELECT min(id) AS low FROM workflows WHERE type = 'bench') AS w",
    "INSERT INTO messages (sender_id, recipient_id, workflow_id, type, state, payload, created_at)"
    " SELECT a.low + k % :agents, CASE WHEN k % 20 <> 0 THEN a.low + (k * 7 + 1) % :agents END,"
    " w.low + k % :workflows, 'handover', CASE WHEN k / 1000 % 100 = 7 THEN 'pending' ELSE 'read' END, '{\"part\": 1}', now()"
    " FROM generate_series(1, :rows) AS k CROSS JOIN (SELECT min(id) AS low FROM workflows WHERE type = 'bench') AS w"
    " CROSS JOIN (SELECT min(id) AS low FROM agents WHERE type = 'bench') AS a",
)


def seeds(service: PersistenceService) -> list[Figure]:
    """Return the milliseconds that it takes to make what a fleet begins with; each call is durable when it returns."""
    rounds = iter(range(1_000_000))

    def agents_in_bulk() -> None:
        lot = next(rounds)
        service.register_agents([AgentSpec(name=f"agent-{lot}-{k}", type="worker") for k in range(AGENTS)])

    def agents_by_single_calls() -> None:
        lot = next(rounds)
        for k in range(AGENTS):
            service.register_agent(f"agent-{lot}-{k}", type="worker")

    def tasks_in_bulk() -> None:
        lot = next(rounds)
        workflow = service.create_workflow(f"lot-{lot}").id
        started = time.perf_counter()
        service.create_tasks(
            TaskSpec(type="summarise", name=f"task-{k}", workflow=workflow, payload={"part": k}) for k in range(TASKS)
        )
        took.append((time.perf_counter() - started) * 1000)

    took: list[float] = []
    for _ in range(MADE):
        tasks_in_bulk()
    return [
        _figure(f"{AGENTS} agents in bulk", _median_ms(agents_in_bulk, MADE), 20),
        _figure(f"{AGENTS} agents by single calls", _median_ms(agents_by_single_calls, MADE), 300),
        _figure(f"{TASKS} tasks of a workflow in bulk", median(took[1:]), 20),
    ]


def lists(service: PersistenceService) -> list[Figure]:
    """Return the milliseconds that look-ups and lists take, beside a million rows."""
    _fill(service.store)
    agent, workflow = "bench-50", "workflow-5000"
    task, message = service.get_workflow_tasks(workflow)[0].id, service.get_agent_messages(agent)[0].id
    look_ups: dict[str, Callable[[], object]] = {
        "agent": lambda: service.get_agent_info(agent),
        "workflow": lambda: service.get_workflow(workflow),
        "task": lambda: service.get_task(task),
        "message": lambda: service.get_message(message),
    }
    pages: dict[str, Callable[[], object]] = {
        "tasks of a workflow": lambda: service.get_workflow_tasks(workflow, limit=PAGE),
        "messages of an agent": lambda: service.get_agent_messages(agent, limit=PAGE),
        "pending messages of an agent": lambda: service.get_agent_messages(agent, status="pending", limit=PAGE),
        "messages of an agent, both ways": lambda: service.get_agent_messages(agent, direction="both", limit=PAGE),
    }
    return [
        *(_figure(f"look-up of one {what}", _median_ms(ask, ASKED), 1) for what, ask in look_ups.items()),
        *(_figure(f"{PAGE} {what}, of {ROWS:,} in all", _median_ms(ask, ASKED), 2) for what, ask in pages.items()),
    ]


def _fill(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        for statement in _FILL:
            connection.execute(text(statement), {"agents": AGENTS, "workflows": WORKFLOWS, "rows": ROWS})
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM ANALYZE tasks"))
        connection.execute(text("VACUUM ANALYZE messages"))
        connection.execute(text("ANALYZE"))


def _median_ms(work: Callable[[], object], times: int) -> float:
    work()
    took: list[float] = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        took.append((time.perf_counter() - started) * 1000)
    return median(took)


def _figure(what: str, took_ms: float, bar_ms: float) -> Figure:
    return Figure(name=f"{what}: ms", value=took_ms, bar=bar_ms, better="less")


def measure(store: Store) -> list[Figure]:
    """Return every figure."""
    with PersistenceService(store) as service:
        return [*seeds(service), *lists(service)]


def run(server_url: str | None = None) -> bool:
    """Measure in a fresh database and print the figures; return whether every bar is met."""
    with fresh_store(server_url) as store:
        return show(measure(store))


if __name__ == "__main__":
    alone(run, __doc__, "server to measure on; by default an embedded one")
