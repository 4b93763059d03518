"""
How long a person waits to learn what workflows cost: 30 days of 100 agents that worked on 100,000 tasks.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from statistics import median

from sqlalchemy import text

from bench.databases import alone, fresh_store
from bench.figures import Figure, show
from reports.run import run as run_report
from rollups.refresh import refresh_all
from storage.model import Table, Tier, Window, floor
from storage.store import Store

AGENTS, DAYS, TASKS, WORKFLOWS = 100, 30, 100_000, 2_000
#: Times that the report is asked for; the middle one counts.
ASKED = 5

#: Each agent begins its tasks at any time, so that some run alone and some at once: 20 minutes each in the mean, a
#: twentieth of them without a workflow, the last one of each agent not finished.
_WORK = (
    "INSERT INTO agents (name, type, probe, endpoint, labels, interval_s, timeout_s, rise, fall, credential, options,"
    " source, created_at) SELECT 'agent-' || k, 'bench', 'http', '', '{}', 900, 10, 1, 1, '', '{}', 'api', :start"
    " FROM generate_series(1, :agents) AS k",
    "INSERT INTO metrics (name, labels, kind, unit, labels_digest)"
    " SELECT name, '{}', kind, unit, decode(md5(name), 'hex') FROM (VALUES ('tokens', 'counter', '1'),"
    " ('cpu_seconds', 'counter', 's'), ('memory', 'gauge', 'By')) AS m (name, kind, unit)",
    "INSERT INTO workflows (name, type, created_at) SELECT 'workflow-' || k, 'type-' || k % 10, :start"
    " FROM generate_series(1, :workflows) AS k",
    "INSERT INTO tasks (workflow_id, type, state, created_at) SELECT CASE WHEN k % 20 > 0 THEN 1 + k % :workflows END,"
    " 'bench', 'completed', :start FROM generate_series(1, :tasks) AS k",
    "INSERT INTO task_assignments (task_id, agent_id, attempt, started_at, ended_at, outcome)"
    " SELECT r.id, r.agent_id, 1, r.at, CASE WHEN r.place < :tasks / :agents THEN r.ended_at END,"
    " CASE WHEN r.place < :tasks / :agents THEN 'completed' END FROM ("
    " SELECT b.id, b.agent_id, b.at, least(:end, b.at - ln(1 - random()) * INTERVAL '20 minutes') AS ended_at,"
    " row_number() OVER (PARTITION BY b.agent_id ORDER BY b.at) AS place FROM ("
    " SELECT id, 1 + id % :agents AS agent_id,"
    " CAST(:start AS timestamptz) + random() * (CAST(:end AS timestamptz) - :start) AS at FROM tasks) AS b) AS r",
)
_DAY = (
    "INSERT INTO agent_metrics (ts, agent_id, metric_id, value) SELECT at, a.id, m.id, 100 * random()"
    " FROM generate_series(CAST(:day AS timestamptz), :last, INTERVAL '15 minutes') AS at"
    " CROSS JOIN agents AS a CROSS JOIN metrics AS m ORDER BY at, a.id, m.id"
)


def fill(store: Store, now: datetime) -> Window:
    """Write the days up to *now* and roll them up; return what was written."""
    window = Window(floor(now, Tier.H1.step) - timedelta(days=DAYS), now)
    counts = {"agents": AGENTS, "workflows": WORKFLOWS, "tasks": TASKS}
    with store.engine.begin() as connection:
        for statement in _WORK:
            connection.execute(text(statement), {"start": window.start, "end": now, **counts})
    for day in window.buckets(Tier.D1.step):
        store.ensure_partitions(Window(day, day + Tier.D1.step))
        last = min(day + Tier.D1.step, now) - timedelta(minutes=1)
        with store.engine.begin() as connection:
            connection.execute(text(_DAY), {"day": max(day, window.start), "last": last})
    store.mark(Table.AGENT, window)
    refresh_all(store, now)
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    return window


def measure(store: Store) -> list[Figure]:
    """Return the milliseconds that the report takes."""
    window = fill(store, datetime.now(UTC))
    took: list[float] = []
    for _ in range(ASKED):
        started = time.perf_counter()
        answer = run_report(store, "workflow_cost", window=window)
        took.append((time.perf_counter() - started) * 1000)
    return [
        Figure(
            name=f"workflow cost over {DAYS} days, {AGENTS} agents, {TASKS} tasks, 3 metrics, {store.engine_name}: ms",
            value=median(took),
            bar=1000,
            better="less",
            detail=f"{len(answer.rows)} rows",
        )
    ]


def run(server_url: str | None = None) -> bool:
    """Measure in a fresh database and print the figure; return whether the bar is met."""
    with fresh_store(server_url) as store:
        return show(measure(store))


if __name__ == "__main__":
    alone(run, __doc__, "server to measure on; by default an embedded one")
