"""
A collector in a process of its own, so that a test can kill it: told what to do by JSON on its command line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from collector import daemon, logs
from collector.config import CollectorConfig, ProgressRules, SpoolConfig
from rollups.policy import RetentionPolicy
from storage.model import AgentSpec
from storage.open import open_store

#: Seconds after which a process that should have ended is killed.
STOP_S = 20.0


class CollectorProcess:
    """
    Runs a collector until it is stopped or killed.

    Args:
        home: Folder of the spool.
        log: File that its log lines are appended to, as JSON.
        progress: What agents are held to, by their type.
    """

    def __init__(
        self,
        home: Path,
        url: str,
        agents: Sequence[AgentSpec],
        log: Path,
        *,
        name: str = "test",
        host: str = "",
        progress: Mapping[str, ProgressRules] | None = None,
    ) -> None:
        order = {
            "home": str(home),
            "url": url,
            "agents": [asdict(agent) for agent in agents],
            "name": name,
            "host": host,
            "progress": {name: asdict(rules) for name, rules in (progress or {}).items()},
        }
        self._log = log.open("ab")
        self.log_path = log
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.daemon.collector_process"],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": "."},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode())
        self.process.stdin.close()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(STOP_S)

    def stop(self) -> int:
        """End it in order; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)

    def events(self) -> list[dict[str, object]]:
        """Return what it has logged so far."""
        lines = self.log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def __enter__(self) -> CollectorProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()
        self._log.close()
        if error is not None:
            error.add_note(self.log_path.read_text()[-4000:])


def main() -> int:
    """Run the collector that stdin describes."""
    order = json.load(sys.stdin)
    logs.configure(sys.stderr, as_json=True)
    config = CollectorConfig(
        name=order["name"],
        home=Path(order["home"]),
        agents=tuple(AgentSpec(**agent) for agent in order["agents"]),
        spool=SpoolConfig(),
        host=order["host"],
        progress={name: ProgressRules(**rules) for name, rules in order["progress"].items()},
        host_interval_s=2.0,
        sync_interval_s=0.3,
        refresh_interval_s=1.0,
        listen_port=0,
    )
    return daemon.main(config, lambda: open_store(order["url"]), policy=RetentionPolicy())


if __name__ == "__main__":
    sys.exit(main())
