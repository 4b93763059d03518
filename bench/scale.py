"""
A thousand agents at five seconds for five minutes, the simulated fleet on the same machine.

The daemon is the real one, a process of its own on an embedded server of its own. Figures come out of the database by
plain SQL when it has stopped: lateness and skipped slots of every check, and when each agent was first polled.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.figures import Figure, show
from collector.simulator.fleet import FleetProcess
from storage.embedded import EmbeddedServer
from storage.model import AgentSpec
from storage.open import open_store

AGENTS = 1_000
INTERVAL_S = 5.0
FOR_S = 300


def settings_file(folder: Path, specs: list[AgentSpec]) -> Path:
    """Write a settings file that polls *specs* and nothing else."""
    lines = ["[collector]", "listen_port = 0", ""]
    for spec in specs:
        lines += ["[[agents]]"]
        for key in ("name", "endpoint", "probe"):
            lines.append(f"{key} = {json.dumps(getattr(spec, key))}")
        lines += [f'interval = "{spec.interval_s}s"', f'timeout = "{spec.timeout_s}s"', ""]
    path = folder / "fleetpulse.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def measure(agents: int, interval_s: float, for_s: int) -> list[Figure]:
    """Run the daemon and return the figures of the scale bar."""
    with tempfile.TemporaryDirectory(prefix="fleetpulse-bench-") as name:
        folder = Path(name)
        with FleetProcess(agents=agents) as fleet:
            config = settings_file(folder, fleet.specs(interval_s, interval_s * 0.8))
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, "-m", "fleetpulse", "run", "--config", str(config), "--for", f"{for_s}s"],
                check=True,
                env={**os.environ, "FLEETPULSE_HOME": str(folder)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        with EmbeddedServer(folder) as server:
            store = open_store(server.url)
            try:
                polled = store.query(
                    "SELECT count(*), count(*) FILTER (WHERE c.outcome = 7),"
                    " percentile_disc(0.99) WITHIN GROUP (ORDER BY c.late_ms), count(DISTINCT c.agent_id)"
                    " FROM health_checks AS c JOIN agents AS a ON a.id = c.agent_id WHERE a.probe = 'http'"
                ).rows[0]
                sweep = store.query(
                    "SELECT max(f.first_s) FROM (SELECT extract(epoch FROM min(c.ts) - min(s.started_at))::float8 AS first_s"
                    " FROM health_checks AS c JOIN collector_sessions AS s ON s.id = c.session_id"
                    " JOIN agents AS a ON a.id = c.agent_id WHERE a.probe = 'http' GROUP BY c.agent_id) AS f"
                ).rows[0][0]
            finally:
                store.close()
    checks, skipped, late, seen = polled
    assert isinstance(sweep, float)
    assert isinstance(late, float)
    assert isinstance(skipped, int)
    return [
        Figure(
            name=f"scale: p99 lateness in ms, {agents} agents at {interval_s:g} s for {for_s} s",
            value=late,
            bar=100,
            better="less",
            detail=f"{checks} checks of {seen} agents, {cpu / for_s:.0%} of a core for the daemon",
        ),
        Figure(name="scale: skipped slots", value=skipped, bar=0, better="less"),
        Figure(
            name="scale: last agent's first slot, in intervals after the start",
            value=sweep / interval_s,
            bar=1,
            better="less",
        ),
    ]


def run(agents: int = AGENTS, interval_s: float = INTERVAL_S, for_s: int = FOR_S) -> bool:
    """Measure and print the figures; return whether every bar is met."""
    return show(measure(agents, interval_s, for_s))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=AGENTS)
    parser.add_argument("--interval-s", type=float, default=INTERVAL_S)
    parser.add_argument("--for-s", type=int, default=FOR_S)
    arguments = parser.parse_args()
    raise SystemExit(0 if run(arguments.agents, arguments.interval_s, arguments.for_s) else 1)
