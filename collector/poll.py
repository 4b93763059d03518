"""
One slot: from its due time to a check and its samples in the buffer.

Every slot that the schedule hands over ends here as exactly one check, or as part of a loss: polled, paused, or
skipped with the reason why. Polls of one agent never overlap, polls of different agents never wait for each other.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import timedelta

from collector.buffer import Buffer
from collector.counters import Counters
from collector.probes.http import HttpProbe
from collector.probes.reading import Probe, Reading, bounded, timed_out
from collector.spool_content import Baseline
from collector.status import StatusMachine
from collector.tally import Tally
from collector.watch import Watch
from storage.model import AgentSpec, Loss, Outcome, Transition, from_us

log = logging.getLogger(__name__)

#: A probe keeps its own deadline; this much later it is cut off, so that one that does not cannot hold its agent for
#: ever. Not earlier, because the probe's own words say more.
GUARD_S = 0.25
#: Polls that may run at the same time. Each agent has one at most, so this only stops a fleet that is larger than the
#: files a process may have open.
MAX_POLLS = 50_000
#: Slots of one gap that are written as skipped checks; a longer gap (a suspended machine) becomes one loss per agent.
MAX_SKIPPED = 120

#: Reason of slots that the end of the collector cut off.
STOPPED = "collector stopped"

_NO_WAIT_MS = 0.0
_STALLED = int(Outcome.STALLED)


class PolledAgent:
    """An agent, or this machine, as the collector works with it. Made and changed on the event loop."""

    __slots__ = (
        "_keys_saved",
        "counters",
        "deadline_s",
        "due_us",
        "failing",
        "host",
        "latency_ms",
        "machine",
        "probe",
        "reason",
        "spec",
        "task",
        "watch",
    )

    def __init__(
        self, spec: AgentSpec, probe: Probe, counters: Counters, machine: StatusMachine, *, host: str = ""
    ) -> None:
        self.spec = spec
        #: Name of the machine whose metrics this is; such a one has samples and no checks.
        self.host = host
        self.probe = probe
        self.counters = counters
        self.machine = machine
        #: Judges the agent's progress, ``None`` where nothing is asked of it.
        self.watch: Watch | None = None
        #: The poll that runs, and the slot that it is for.
        self.task: asyncio.Task[None] | None = None
        self.due_us = 0
        #: Of the last answer, milliseconds; NaN where the last poll had none.
        self.latency_ms = math.nan
        #: Of the last poll.
        self.reason = ""
        #: The probe's last poll raised: said once, not in each slot.
        self.failing = False
        self.deadline_s = 0.0
        self._keys_saved: tuple[object, int] | None = None
        self.use(spec, probe)

    def use(self, spec: AgentSpec, probe: Probe) -> None:
        """Poll by *spec* and with *probe* from the next slot on."""
        self.spec = spec
        self.probe = probe
        self.deadline_s = min(spec.timeout_s, spec.interval_s)
        self.machine.rise = spec.rise
        self.machine.fall = spec.fall

    def baseline(self, spool: object) -> Baseline | None:
        """Return what the counters need to go on after a restart; with their names where *spool* lacks those."""
        counters = self.counters
        if not len(counters):
            return None
        state = (spool, counters.keys_version)
        keys = None if self._keys_saved == state else counters.export_keys()
        self._keys_saved = state
        return Baseline(agent=self.spec.name, keys=keys, values=counters.export_values())


class Poller:
    """
    Runs slots on the event loop.

    Args:
        buffer: Gets the checks and samples.
        now_us: The timeline's clock.
        tally: Counts what happens.
        max_polls: Polls that may run at the same time.
    """

    def __init__(self, buffer: Buffer, now_us: Callable[[], int], tally: Tally, *, max_polls: int = MAX_POLLS) -> None:
        self._buffer = buffer
        self._now_us = now_us
        self._tally = tally
        self._max_polls = max_polls
        self._running: dict[PolledAgent, int] = {}
        self._moved: set[PolledAgent] = set()
        #: No further poll is begun.
        self.stopping = False

    # ---------------------------------------------------------------- slots

    def begin(self, agent: PolledAgent, due_us: int) -> None:
        """Begin the poll of one slot, or account for it at once where there is none."""
        if agent.spec.paused:
            self._unpolled(agent, due_us, Outcome.PAUSED, "")
        elif self.stopping:
            self._unpolled(agent, due_us, Outcome.SKIPPED, STOPPED)
        elif agent.task is not None:
            self._unpolled(agent, due_us, Outcome.SKIPPED, "previous poll still runs")
        elif len(self._running) >= self._max_polls:
            self._unpolled(agent, due_us, Outcome.SKIPPED, "too many polls at once")
        else:
            agent.due_us = due_us
            if isinstance(agent.probe, HttpProbe) and agent.probe.tells_due:
                agent.probe.due_us = due_us
            self._running[agent] = due_us
            agent.task = asyncio.get_running_loop().create_task(self._poll(agent, due_us))

    def pass_over(self, agent: PolledAgent, first_us: int, n: int, step_us: int, reason: str) -> None:
        """Account for *n* slots from *first_us* on, *step_us* apart, that nobody polled."""
        if agent.host:
            return
        outcome = Outcome.PAUSED if agent.spec.paused else Outcome.SKIPPED
        if n <= MAX_SKIPPED:
            for k in range(n):
                self._unpolled(agent, first_us + k * step_us, outcome, "" if agent.spec.paused else reason)
            return
        if agent.spec.paused:
            # One slot is kept, so that the agent's status is what it would be without the gap.
            n -= 1
            self._unpolled(agent, first_us + n * step_us, outcome, "")
        self._tally.lost_slots += n
        self._buffer.add_loss(
            Loss(
                agent=agent.spec.name,
                from_due=from_us(first_us),
                to_due=from_us(first_us + (n - 1) * step_us),
                n=n,
                reason=reason.replace(" ", "_"),
            )
        )

    def oldest_us(self) -> int | None:
        """Return the earliest due time among the polls that run; ``None`` when none does."""
        return min(self._running.values(), default=None)

    @property
    def running(self) -> int:
        """Return how many polls run."""
        return len(self._running)

    def moved(self) -> set[PolledAgent]:
        """Return the agents whose counters may have moved since the last call."""
        moved, self._moved = self._moved, set()
        return moved

    def resume(self, agent: PolledAgent) -> None:
        """Take note that *agent* is polled again after a pause."""
        self._changed(agent.machine.resume(self._now_us()))

    # ---------------------------------------------------------------- one poll

    async def _poll(self, agent: PolledAgent, due_us: int) -> None:
        late_ms = (self._now_us() - due_us) / 1000.0
        if not agent.host:
            self._tally.poll(late_ms)
        try:
            async with asyncio.timeout(agent.deadline_s + GUARD_S):
                reading = await agent.probe.poll(agent.deadline_s)
        except TimeoutError:
            reading = timed_out(agent.spec.timeout_s)
        except asyncio.CancelledError as exc:
            self._finish(agent)
            self._unpolled(agent, due_us, Outcome.SKIPPED, str(exc) or STOPPED, late_ms)
            raise
        except Exception as exc:  # noqa: BLE001  # logged with its traceback, the first time
            reading = self._broken(agent, exc)
        else:
            agent.failing = False
        self._finish(agent)
        self._accept(agent, due_us, late_ms, reading)

    def _finish(self, agent: PolledAgent) -> None:
        agent.task = None
        del self._running[agent]

    def _broken(self, agent: PolledAgent, exc: Exception) -> Reading:
        """Turn an error inside a probe into a reading: a bug there must not cost the slot, nor anybody else's."""
        self._tally.probe_errors += 1
        if not agent.failing:
            agent.failing = True
            log.error(
                "probe of agent %s raised, which no probe may",
                agent.spec.name,
                exc_info=exc,
                extra={"event": "probe_failed", "agent": agent.spec.name},
            )
        return Reading(outcome=Outcome.ERROR, reason=bounded(f"probe failed: {type(exc).__name__}"))

    def _accept(self, agent: PolledAgent, due_us: int, late_ms: float, reading: Reading) -> None:
        # No await between here and the buffer: a flush must see the samples and the baselines that they moved
        # together, or not at all.
        metrics, values = agent.counters.deltas(reading)
        if metrics or reading.metrics:
            self._moved.add(agent)
        tally = self._tally
        tally.samples += len(values)
        if reading.rejected:
            tally.rejected.update(reading.rejected)
        if agent.host:
            self._buffer.add_system(agent.host, due_us, metrics, values)
            return
        outcome, reason = int(reading.outcome), reading.reason
        if agent.watch is not None:
            stalled = agent.watch.judge(reading, metrics, values, agent.machine.status)
            if stalled:
                outcome, reason = _STALLED, stalled
        agent.latency_ms, agent.reason = reading.latency_ms, reason
        self._buffer.add(
            agent.spec.name,
            due_us,
            outcome,
            late_ms,
            reading.latency_ms,
            reading.http_status,
            reason,
            metrics,
            values,
        )
        tally.slots[outcome] += 1
        self._changed(agent.machine.observe(due_us, outcome, reason))

    def _unpolled(
        self, agent: PolledAgent, due_us: int, outcome: Outcome, reason: str, late_ms: float = _NO_WAIT_MS
    ) -> None:
        if agent.host:
            return
        self._buffer.add(agent.spec.name, due_us, int(outcome), late_ms, math.nan, 0, reason)
        self._tally.slots[outcome] += 1
        self._changed(agent.machine.observe(due_us, int(outcome), reason))

    def _changed(self, change: Transition | None) -> None:
        if change is not None:
            self._buffer.add_transition(change)
            self._tally.transitions.append(change)

    # ---------------------------------------------------------------- stop

    async def stop(self, grace: timedelta) -> None:
        """Begin no further poll; let running ones finish for *grace*, then cancel them: their slots are skipped."""
        self.stopping = True
        tasks = [agent.task for agent in self._running if agent.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace.total_seconds())
        for agent in list(self._running):
            await self.cancel(agent, STOPPED)

    async def cancel(self, agent: PolledAgent, reason: str) -> None:
        """End the poll of *agent* that may be running; its slot is skipped for *reason*."""
        task = agent.task
        if task is None:
            return
        task.cancel(reason)
        await asyncio.wait([task])
        if agent.task is task:
            # It was cancelled before its first step, so nothing of it ran.
            self._finish(agent)
            self._unpolled(agent, agent.due_us, Outcome.SKIPPED, reason)
