"""
Reads what the database knows of agents' progress, on a thread of its own, every few seconds.

While the database is away nothing is read, and the last facts stay: who judges by them looks at their age.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from collector.progress import OTHERS, Beat, Facts, Progress, RunningTask
from storage import progress as stored
from storage.store import Store

#: Runs that a p95 is taken of.
P95_OVER = timedelta(days=7)
#: Seconds for which a p95 is kept: that of a week of runs changes slowly, and half a million of them take a second or two
#: to rank.
P95_KEEP_S = 300.0


class ProgressReader:
    """
    Brings *progress* its facts.

    Args:
        store: Returns the store while the database is there.
    """

    def __init__(self, progress: Progress, store: Callable[[], Store | None]) -> None:
        self._progress = progress
        self._store = store
        rules = list(progress.rules.values())
        self._task_min_s = min((each.task_min_s for each in rules if each.task_p95_factor is not None), default=None)
        self._beating = {name for name, each in progress.rules.items() if each.heartbeat_within_s is not None}
        #: By type, when it was read and what it was.
        self._p95_s: dict[str, tuple[float, float | None]] = {}

    def read(self) -> None:
        """
        Read once, where the database is there.

        Raises:
            TransientStorageError: It went away meanwhile.
        """
        store = self._store()
        if store is None:
            return
        # Both clocks before anything is read: no age is ever made longer than it was.
        read_s = self._progress.clock()
        # Heartbeats and tasks have the moments of this clock.
        now = store.now()
        beats = self._beats(store, now)
        running: dict[str, list[RunningTask]] = {}
        p95_s: dict[str, float] = {}
        if self._task_min_s is not None:
            for run in stored.running(store.engine, now - timedelta(seconds=self._task_min_s)):
                age_s = (now - run.started_at).total_seconds()
                running.setdefault(run.agent, []).append(RunningTask(run.task_id, run.type, age_s))
            types = {task.type for tasks in running.values() for task in tasks}
            p95_s = self._quantiles(store, types, now, read_s)
        self._progress.facts = Facts(read_s=read_s, beats=beats, running=running, p95_s=p95_s)

    def _beats(self, store: Store, now: datetime) -> dict[str, Beat]:
        types = None if OTHERS in self._beating else self._beating
        return {
            beat.agent: Beat((now - (beat.at or beat.registered_at)).total_seconds(), beat.at is not None)
            for beat in stored.heartbeats(store.engine, types)
        }

    def _quantiles(self, store: Store, types: set[str], now: datetime, read_s: float) -> dict[str, float]:
        """Return the p95 of *types*, reading those that are not known or are known for too long."""
        self._p95_s = {name: known for name, known in self._p95_s.items() if read_s - known[0] < P95_KEEP_S}
        wanted = types - self._p95_s.keys()
        if wanted:
            found = stored.p95_by_type(store.engine, wanted, now - P95_OVER)
            for name in wanted:
                took = found.get(name)
                self._p95_s[name] = (read_s, None if took is None else took.total_seconds())
        return {name: p95 for name in types if (p95 := self._p95_s[name][1]) is not None}
