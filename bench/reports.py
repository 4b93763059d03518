"""
How long a person waits for a report of health: 30 days of 100 agents, answered out of the tiers.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from statistics import median

from sqlalchemy import text

from bench.databases import alone, fresh_store
from bench.figures import Figure, show
from reports.health_reports import HEALTH
from reports.run import run as run_report
from rollups.refresh import refresh_all
from storage.model import Table, Tier, Window, floor
from storage.store import Store

AGENTS, HOSTS, DAYS = 100, 5, 30
#: Times that each report is asked for; the middle one counts.
ASKED = 5
#: Bars of those that may take longer than 100 ms: bins of latencies are added up by a function, 8 µs for each row.
SLOWER_MS = {"latency": 200}

#: Agents with a check a minute and a schedule to count against; every agent is down for ten minutes of each day.
_RELATIONAL = (
    "INSERT INTO agents (name, type, probe, endpoint, labels, interval_s, timeout_s, rise, fall, credential, options,"
    " source, created_at) SELECT 'agent-' || k, 'bench', 'http', '', '{}', 60, 10, 1, 1, '', '{}', 'api', :start"
    " FROM generate_series(1, :agents) AS k",
    "INSERT INTO agent_schedules (agent_id, from_ts, interval_s, offset_s, state)"
    " SELECT id, :start, 60, 0, 'active' FROM agents",
    "INSERT INTO hosts (name, created_at) SELECT 'host-' || k, :start FROM generate_series(1, :hosts) AS k",
    "INSERT INTO metrics (name, labels, kind, labels_digest)"
    " SELECT name, '{}', 'gauge', decode(md5(name), 'hex') FROM unnest(ARRAY['cpu_percent', 'load1', 'load5', 'load15',"
    " 'memory_used_percent', 'swap_used_percent', 'filesystem_used_percent']) AS name",
    "INSERT INTO status_events (agent_id, ts, from_status, to_status, reason, spool_id, seq)"
    " SELECT a.id, d.at + e.after, e.old, e.new, 'bench', gen_random_uuid(), 1 FROM agents AS a"
    " CROSS JOIN generate_series(CAST(:start AS timestamptz), :end, INTERVAL '1 day') AS d (at)"
    " CROSS JOIN (VALUES (INTERVAL '1 hour', 'healthy', 'error'), (INTERVAL '70 minutes', 'error', 'healthy'))"
    " AS e (after, old, new)",
)
_DAY = (
    "INSERT INTO health_checks (ts, agent_id, outcome, late_ms, latency_ms, http_status, session_id)"
    " SELECT at, a.id, CASE WHEN at >= :day + INTERVAL '1 hour' AND at < :day + INTERVAL '70 minutes' THEN 6 ELSE 0 END,"
    " 1, exp(3 + random()), 200, 1"
    " FROM generate_series(CAST(:day AS timestamptz), :last, INTERVAL '1 minute') AS at"
    " CROSS JOIN agents AS a ORDER BY at, a.id",
    "INSERT INTO system_metrics (ts, host_id, metric_id, value) SELECT at, h.id, m.id, 100 * random()"
    " FROM generate_series(CAST(:day AS timestamptz), :last, INTERVAL '1 minute') AS at"
    " CROSS JOIN hosts AS h CROSS JOIN metrics AS m ORDER BY at, h.id, m.id",
)


def fill(store: Store, now: datetime) -> Window:
    """Write the days up to *now* and roll them up; return what was written."""
    window = Window(floor(now, Tier.D1.step) - timedelta(days=DAYS - 1), floor(now, Tier.D1.step) + timedelta(days=1))
    with store.engine.begin() as connection:
        for statement in _RELATIONAL:
            connection.execute(text(statement), {"start": window.start, "end": now, "agents": AGENTS, "hosts": HOSTS})
    for back in range(DAYS):
        day = window.start + timedelta(days=back)
        store.ensure_partitions(Window(day, day + timedelta(days=1)))
        with store.engine.begin() as connection:
            for statement in _DAY:
                last = min(day + timedelta(days=1), now) - timedelta(minutes=1)
                connection.execute(text(statement), {"day": day, "last": last})
    for table in (Table.HEALTH, Table.SYSTEM):
        store.mark(table, window)
    refresh_all(store, now)
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    return window


def measure(store: Store) -> list[Figure]:
    """Return the milliseconds that each report takes."""
    now = datetime.now(UTC)
    fill(store, now)
    window = Window(now - timedelta(days=DAYS - 1), now)
    figures: list[Figure] = []
    for name in (each.name for each in HEALTH):
        took: list[float] = []
        for _ in range(ASKED):
            started = time.perf_counter()
            answer = run_report(store, name, window=window)
            took.append((time.perf_counter() - started) * 1000)
        figures.append(
            Figure(
                name=f"report {name} over {DAYS} days, {AGENTS} agents, {store.engine_name}: ms",
                value=median(took),
                bar=SLOWER_MS.get(name, 100),
                better="less",
                detail=f"{len(answer.rows)} rows",
            )
        )
    return figures


def run(server_url: str | None = None) -> bool:
    """Measure in a fresh database and print the figures; return whether every bar is met."""
    with fresh_store(server_url) as store:
        return show(measure(store))


if __name__ == "__main__":
    alone(run, __doc__, "server to measure on; by default an embedded one")
