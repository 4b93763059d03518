"""
A small fleet whose rows are known one by one: for tests of what is made of them.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import insert, select

from storage.model import Kind, MetricKey, Outcome, Window
from storage.models import Agent
from storage.store import Store
from storage.transactions import writing
from storage.work_models import Message, Task, TaskAssignment, Workflow
from tests.batches import NOON, Spool
from tests.fleet import add_agent

#: In the order of their names; the last is not ASCII.
AGENTS = ("db-1", "web-1", "ünï-✓")
HOUR = Window(NOON, NOON + timedelta(hours=1))

#: Agent, seconds after noon, outcome, latency in ms.
CHECKS = (
    ("web-1", 0, Outcome.HEALTHY, 10.0),
    ("db-1", 0, Outcome.TIMEOUT, None),
    ("ünï-✓", 5, Outcome.DEGRADED, 30.0),
    ("web-1", 10, Outcome.HEALTHY, 20.0),
    ("web-1", 70, Outcome.UNHEALTHY, 60.0),
    ("db-1", 400, Outcome.HEALTHY, 5.0),
)
#: Agent, metric, seconds after noon, value.
GAUGES = (
    ("web-1", "depth", 0, 4.0),
    ("db-1", "depth", 0, 1.0),
    ("web-1", "depth", 10, 8.0),
    ("web-1", "depth", 70, -2.0),
)
COUNTERS = (("web-1", "tokens_total", 0, 100.0), ("web-1", "tokens_total", 10, 50.0), ("db-1", "tokens_total", 70, 7.0))
#: Host, device, seconds after noon, value.
DISKS = (("host-a", "sda", 0, 50.0), ("host-a", "sdb", 0, 70.0), ("host-a", "sda", 10, 51.0))


def at(seconds: float) -> datetime:
    """Return the moment so many seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def fill(store: Store) -> None:
    """Register the agents and write their rows."""
    for name in AGENTS:
        add_agent(store, name, type="db" if name.startswith("db") else "web")
    store.ensure_partitions(Window(NOON, NOON + timedelta(days=1)))
    spool = Spool()
    store.write(
        spool.batch(checks=[(agent, at(s), outcome, ms) for agent, s, outcome, ms in CHECKS[:-1]], reason="busy")
    )
    store.write(spool.batch(checks=[(agent, at(s), outcome, ms) for agent, s, outcome, ms in CHECKS[-1:]]))
    gauges = spool.batch(samples=[(agent, metric, at(s), value) for agent, metric, s, value in GAUGES])
    store.write(replace(gauges, metrics=(MetricKey(name="depth", unit="1"),)))
    samples = [(agent, metric, at(s), value) for agent, metric, s, value in COUNTERS]
    store.write(spool.batch(samples=samples, kind=Kind.COUNTER))
    disks = spool.batch(system=[(host, device, at(s), value) for host, device, s, value in DISKS])
    used = [MetricKey(name="disk_used_percent", labels=(("device", each),), unit="%") for each in ("sda", "sdb")]
    store.write(replace(disks, metrics=tuple(used)))


#: Task, type, workflow, agent, from and to in seconds after noon; one that goes on has no end.
RUNS = (
    ("plan", "think", "night", "web-1", 0, 60),
    ("draft", "write", "night", "web-1", 10, 80),
    (None, "think", None, "db-1", 60, None),
)


def work(store: Store) -> None:
    """Give the agents their tasks, one more that nobody has begun, and two messages, one of them to everybody."""
    with writing(store.engine).begin() as connection:
        agents = dict(iter(connection.execute(select(Agent.name, Agent.id))))
        night = connection.execute(
            insert(Workflow).values(name="night", type="nightly", created_at=NOON).returning(Workflow.id)
        ).scalar_one()
        for name, kind, workflow, agent, start, end in RUNS:
            task = connection.execute(
                insert(Task)
                .values(
                    name=name,
                    type=kind,
                    workflow_id=night if workflow else None,
                    state="running" if end is None else "completed",
                    payload={"prompt": "ünï", "n": [1, 2]},
                    agent_id=agents[agent],
                    created_at=NOON,
                    started_at=at(start),
                    finished_at=None if end is None else at(end),
                )
                .returning(Task.id)
            ).scalar_one()
            connection.execute(
                insert(TaskAssignment).values(
                    task_id=task,
                    agent_id=agents[agent],
                    attempt=1,
                    started_at=at(start),
                    ended_at=None if end is None else at(end),
                    outcome=None if end is None else "completed",
                )
            )
        connection.execute(insert(Task).values(name="later", type="write", workflow_id=night, created_at=at(3600)))
        for recipient in ("db-1", None):
            connection.execute(
                insert(Message).values(
                    sender_id=agents["web-1"],
                    recipient_id=agents[recipient] if recipient else None,
                    type="note",
                    payload={"text": 'a,b\n"c"'},
                    created_at=NOON,
                )
            )
