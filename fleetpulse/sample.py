"""
A generated history of a small fleet, to try reports, frames and notebooks on.

Ten agents of four types research, write and review reports for some days: they are polled every minute, fail now and then,
spend tokens and CPU time on their tasks, talk to each other, and two hosts fill their disks. The same seed makes the same
history.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import numpy as np
from sqlalchemy import insert, select
from sqlalchemy.orm import Session as OrmSession

from reports.arguments import insist_store
from rollups.refresh import refresh_all
from storage.batch import Batch, make_checks, make_samples
from storage.errors import InputError, StorageError, shown
from storage.model import (
    EPOCH,
    MAX_DATED_AHEAD,
    AgentSpec,
    Kind,
    MetricKey,
    Outcome,
    Session,
    Tier,
    Transition,
    Window,
    floor,
    to_us,
)
from storage.models import Agent
from storage.repositories.agents import AgentRepository
from storage.store import Store
from storage.transactions import writing
from storage.work_models import (
    AgentCapability,
    Message,
    Task,
    TaskAssignment,
    TaskDependency,
    TaskEvent,
    Workflow,
    WorkflowEvent,
)

MINUTE, HOUR, DAY = Tier.M1.step, Tier.H1.step, Tier.D1.step

#: Type to how many agents there are of it.
_TYPES = {"planner": 2, "researcher": 4, "writer": 3, "reviewer": 1}
#: The tasks of a report, the type of agent that does each, its usual minutes, and what it waits for.
_STEPS: Sequence[tuple[str, str, str, float, tuple[str, ...]]] = (
    ("outline", "plan", "planner", 3, ()),
    ("sources", "research", "researcher", 9, ("outline",)),
    ("figures", "research", "researcher", 7, ("outline",)),
    ("history", "research", "researcher", 5, ("outline",)),
    ("draft", "write", "writer", 12, ("sources", "figures", "history")),
    ("review", "review", "reviewer", 4, ("draft",)),
)
_HOSTS = ("host-a", "host-b")
#: How agents go down, and why.
_CAUSES = (
    (Outcome.TIMEOUT, "no answer within 10 s"),
    (Outcome.REFUSED, "connection refused"),
    (Outcome.UNHEALTHY, "status 503"),
)
_MAX_DAYS = 60

_TOKENS = MetricKey(name="llm_tokens", kind=Kind.COUNTER, unit="1", description="tokens in and out")
_CPU = MetricKey(name="cpu_seconds", kind=Kind.COUNTER, unit="s", description="CPU time used")
_QUEUE = MetricKey(name="queue_length", kind=Kind.GAUGE, unit="1", description="requests that wait")
_GAUGES = tuple(
    MetricKey(name=name, unit=unit)
    for name, unit in (
        ("cpu_percent", "%"),
        ("load1", "1"),
        ("memory_used_percent", "%"),
        ("filesystem_used_percent", "%"),
    )
)


def sample_fleet(store: Store, *, days: int = 3, end: datetime | None = None, seed: int = 1) -> Window:
    """
    Write the history of a small fleet into *store*, which has a schema and no agents yet, and roll it up.

    Args:
        days: Of history, up to *end*.
        end: Aware, no later than a day from now, cut to the minute; now without it.
        seed: Of the random numbers, 0 or more.

    Returns:
        The time that the history is about.

    Raises:
        InputError: The database has agents already, or no longer keeps that time, or an argument is out of range; nothing
            was written.
        StorageError: The database refused something.
    """
    insist_store(store)
    _insist_whole("days", days, 1, _MAX_DAYS)
    _insist_whole("seed", seed, 0, None)
    window = _window(end, days)
    agents = AgentRepository(store.engine)
    if agents.list(include_retired=True):
        raise InputError("the database has agents already, expected an empty one: a generated history is for trying")
    _insist_kept(store, window)
    history = _History(window, np.random.default_rng(seed))
    agents.sync(
        [
            AgentSpec(
                name=name, type=kind, endpoint=f"http://127.0.0.1/{name}", interval_s=60, labels={"team": "reports"}
            )
            for name, kind in history.types.items()
        ],
        "api",
        window.start,
    )
    history.work(store)
    history.measure(store)
    refresh_all(store, window.end + 2 * DAY)
    return window


def _insist_whole(what: str, value: object, least: int, most: int | None) -> None:
    fits = isinstance(value, int) and not isinstance(value, bool) and value >= least and (most is None or value <= most)
    if not fits:
        expected = f"of {least} or more" if most is None else f"from {least} to {most}"
        raise InputError(f"{what} is {shown(value)}, expected a whole number {expected}")


def _window(end: object, days: int) -> Window:
    now = datetime.now(UTC)
    until = now if end is None else end
    if not isinstance(until, datetime) or until.tzinfo is None:
        raise InputError(f"end is {shown(end)}, expected an aware moment: datetime(2026, 3, 10, tzinfo=UTC)")
    # What is dated further ahead no database takes.
    first, last = EPOCH + days * DAY, now + MAX_DATED_AHEAD
    if not first <= until <= last:
        raise InputError(f"end is {until.isoformat()}, expected {first:%Y-%m-%d} to a day from now")
    until = floor(until.astimezone(UTC), MINUTE)
    return Window(until - days * DAY, until)


def _insist_kept(store: Store, window: Window) -> None:
    closed = max(each.closed_before for each in store.horizons() if each.tier is Tier.RAW)
    if window.start < closed:
        raise InputError(
            f"the history would begin at {window.start.isoformat()}, the database takes rows from {closed.isoformat()} on: "
            "give it a later end or fewer days"
        )


@dataclass(slots=True)
class _Run:
    """One try of an agent at a task."""

    agent: str
    start: datetime
    end: datetime
    outcome: str


@dataclass(slots=True)
class _Free:
    """When each agent of a type has nothing to do any more."""

    until: dict[str, datetime] = field(default_factory=dict)

    def take(self, kind: str, moment: datetime, minutes: float) -> _Run:
        """Give work to the agent of *kind* that is free first, from *moment* on at the earliest."""
        names = [name for name in self.until if name.startswith(f"{kind}-")]
        agent = min(names, key=self.until.__getitem__)
        start = max(self.until[agent], moment)
        self.until[agent] = start + timedelta(minutes=minutes)
        return _Run(agent=agent, start=start, end=self.until[agent], outcome="completed")


class _History:
    """What happens to the fleet: work first, because what is measured follows from it."""

    def __init__(self, window: Window, random: np.random.Generator) -> None:
        self._window = window
        self._random = random
        self.types = {f"{kind}-{number + 1}": kind for kind, count in _TYPES.items() for number in range(count)}
        self._runs: list[_Run] = []
        self._down = {name: self._outages() for name in self.types}

    # ---------------------------------------------------------------- work

    def work(self, store: Store) -> None:
        """Let the agents write a report every hour or so."""
        free = _Free(until=dict.fromkeys(self.types, self._window.start))
        with OrmSession(writing(store.engine)) as session, session.begin():
            ids = {row.name: row.id for row in session.execute(select(Agent.name, Agent.id))}
            kinds = {step[2]: step[1] for step in _STEPS}
            session.execute(
                insert(AgentCapability),
                [
                    {"agent_id": ids[name], "name": kinds[kind], "details": {}, "added_at": self._window.start}
                    for name, kind in self.types.items()
                ],
            )
            moment, number = self._window.start + 20 * MINUTE, 0
            while moment < self._window.end:
                number += 1
                self._report(session, ids, free, f"report-{number:03d}", moment)
                moment += timedelta(minutes=float(self._random.uniform(45, 75)))

    def _report(self, session: OrmSession, ids: dict[str, int], free: _Free, name: str, created: datetime) -> None:
        """Write one workflow: its tasks as far as they have come by the end of the window."""
        end = self._window.end
        workflow = Workflow(
            name=name, type="report", state="running", payload={"topic": name}, created_at=created, started_at=created
        )
        session.add(workflow)
        session.flush()
        session.add(WorkflowEvent(workflow_id=workflow.id, ts=created, from_state=None, to_state="pending"))
        session.add(WorkflowEvent(workflow_id=workflow.id, ts=created, from_state="pending", to_state="running"))
        done: dict[str, datetime] = {}
        tasks: dict[str, Task] = {}
        lost = False
        for step, kind, agents, minutes, waits in _STEPS:
            task = Task(workflow_id=workflow.id, type=kind, name=step, created_at=created, payload={"topic": name})
            tasks[step] = task
            session.add(task)
            session.flush()
            session.add_all(TaskDependency(task_id=task.id, depends_on=tasks[other].id) for other in waits)
            session.add(TaskEvent(task_id=task.id, ts=created, from_state=None, to_state="pending"))
            ready = max((done.get(other, datetime.max.replace(tzinfo=UTC)) for other in waits), default=created)
            task.blocked_by = sum(done.get(other, end) >= end for other in waits) if not lost else len(waits)
            if lost or ready >= end:
                continue
            finished = self._try(session, ids, free, task, agents, ready, minutes)
            if finished is None:
                lost = True
            else:
                done[step] = finished
        last = max(done.values(), default=created)
        if lost or (len(done) == len(_STEPS) and last < end):
            workflow.state = "failed" if lost else "completed"
            workflow.reason = "a task failed for good" if lost else ""
            workflow.finished_at = min(last, end)
            session.add(
                WorkflowEvent(
                    workflow_id=workflow.id, ts=workflow.finished_at, from_state="running", to_state=workflow.state
                )
            )
        self._talk(session, ids, workflow, tasks)

    def _try(
        self,
        session: OrmSession,
        ids: dict[str, int],
        free: _Free,
        task: Task,
        kind: str,
        ready: datetime,
        minutes: float,
    ) -> datetime | None:
        """Work on *task* until it is done; return when, ``None`` where three tries failed. The window may end before."""
        for attempt in range(1, 4):
            fails = self._random.random() < 0.06
            takes = minutes * float(self._random.lognormal(0, 0.35)) * (0.5 if fails else 1)
            run = free.take(kind, ready, takes)
            if run.start >= self._window.end:
                return run.end
            reason = "model answered with an error"
            outage = next(
                (down for down, _, _ in self._down[run.agent] if down.start < run.end and run.start < down.end), None
            )
            if outage is not None:
                # What an agent works on is lost with it.
                fails, reason = True, "agent was down"
                run.end = max(run.start, outage.start) + MINUTE
                free.until[run.agent] = outage.end
            going_on = run.end >= self._window.end
            run.outcome = "failed" if fails else "completed"
            self._runs.append(run)
            state = "running" if going_on else run.outcome
            task.state, task.attempts, task.agent_id = state, attempt, ids[run.agent]
            task.started_at, task.finished_at = run.start, None if going_on else run.end
            task.version += 2
            task.reason = reason if state == "failed" else ""
            session.add(
                TaskAssignment(
                    task_id=task.id,
                    agent_id=ids[run.agent],
                    attempt=attempt,
                    started_at=run.start,
                    ended_at=None if going_on else run.end,
                    outcome=None if going_on else run.outcome,
                )
            )
            self._tell(session, task, run.start, "pending", "running", ids[run.agent])
            if going_on:
                return run.end
            self._tell(session, task, run.end, "running", run.outcome, ids[run.agent], reason if fails else "")
            if not fails:
                return run.end
            if attempt < 3:
                ready = run.end + MINUTE
                self._tell(session, task, ready, "failed", "pending", None, "tried again")
                task.state, task.reason, task.finished_at = "pending", "", None
        return None

    def _tell(
        self,
        session: OrmSession,
        task: Task,
        moment: datetime,
        old: str,
        new: str,
        agent_id: int | None,
        reason: str = "",
    ) -> None:
        session.add(
            TaskEvent(task_id=task.id, ts=moment, from_state=old, to_state=new, agent_id=agent_id, reason=reason)
        )

    def _talk(self, session: OrmSession, ids: dict[str, int], workflow: Workflow, tasks: dict[str, Task]) -> None:
        """Whoever finished a task says so to whoever works on the next one."""
        for step, _kind, _agents, _minutes, waits in _STEPS:
            for other in waits:
                before, after = tasks[other], tasks[step]
                if before.finished_at is None or before.agent_id is None or after.agent_id is None:
                    continue
                sent = before.finished_at
                delivered = sent + timedelta(seconds=float(self._random.exponential(2)))
                # Whoever gets it reads it when the work begins.
                read = after.started_at and max(after.started_at, delivered)
                session.add(
                    Message(
                        sender_id=before.agent_id,
                        recipient_id=after.agent_id,
                        workflow_id=workflow.id,
                        task_id=after.id,
                        type="result",
                        state="read" if read else "delivered",
                        payload={"of": other, "words": int(self._random.integers(200, 2_000))},
                        created_at=sent,
                        delivered_at=delivered,
                        read_at=read,
                    )
                )

    # ---------------------------------------------------------------- measurements

    def measure(self, store: Store) -> None:
        """Write what a collector would have seen of it, a UTC day at a time."""
        session = Session(
            uuid=str(uuid4()), name="sample", host=_HOSTS[0], pid=0, version="0", started_at=self._window.start
        )
        busy = self._busy()
        filled = {host: float(self._random.uniform(40, 60)) for host in _HOSTS}
        spool = uuid4()
        for seq, part in enumerate(_days(self._window), start=1):
            batch = self._day(part, spool, seq, session, busy, filled)
            store.ensure_partitions(part)
            result = store.write(batch)
            if result.rejections or result.kept:
                told = ", ".join(f"{n:,} {reason}" for reason, n in result.rejected.items()) or f"{result.kept:,} kept"
                raise StorageError(f"the database refused a part of the history: {told}: begin again with an empty one")
        store.close_session(session)

    def _busy(self) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
        """Return the seconds of each minute of the window in which each agent works."""
        minutes = int((self._window.end - self._window.start) / MINUTE)
        busy = {name: np.zeros(minutes) for name in self.types}
        for run in self._runs:
            first = (run.start - self._window.start).total_seconds()
            last = (min(run.end, self._window.end) - self._window.start).total_seconds()
            edges = np.arange(int(first // 60), int(np.ceil(last / 60)) + 1) * 60.0
            inside = np.diff(np.clip(edges, first, last))
            place = int(first // 60)
            inside = inside[: minutes - place]
            busy[run.agent][place : place + len(inside)] += inside
        return busy

    def _outages(self) -> list[tuple[Window, Outcome, str]]:
        """Return when an agent is down, how, and why."""
        found: list[tuple[Window, Outcome, str]] = []
        moment = self._window.start + float(self._random.exponential(30)) * HOUR
        while moment < self._window.end:
            start = floor(moment, MINUTE)
            length = max(2, int(self._random.exponential(12))) * MINUTE
            outcome, reason = _CAUSES[int(self._random.integers(len(_CAUSES)))]
            found.append((Window(start, start + length), outcome, reason))
            moment = start + length + HOUR + float(self._random.exponential(30)) * HOUR
        return found

    def _day(
        self,
        part: Window,
        spool: UUID,
        seq: int,
        session: Session,
        busy: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]],
        filled: dict[str, float],
    ) -> Batch:
        names = tuple(self.types)
        first = int((part.start - self._window.start) / MINUTE)
        n = int((part.end - part.start) / MINUTE)
        ts_us = to_us(part.start) + np.arange(n, dtype=np.int64) * 60_000_000
        reasons = tuple(why for _, why in _CAUSES)
        checks: list[dict[str, np.ndarray[tuple[int], np.dtype[np.generic]]]] = []
        samples: list[tuple[int, int, np.ndarray[tuple[int], np.dtype[np.float64]]]] = []
        transitions: list[Transition] = []
        for place, name in enumerate(names):
            working = busy[name][first : first + n]
            if part.start == self._window.start:
                transitions.append(Transition(agent=name, due=part.start, old="unknown", new="healthy"))
            outcome = np.zeros(n, np.int16)
            reason = np.full(n, -1, np.int32)
            for down, kind, why in self._down[name]:
                inside = (ts_us >= to_us(down.start)) & (ts_us < to_us(down.end))
                outcome[inside], reason[inside] = int(kind), reasons.index(why)
                transitions += _changes(name, down, kind, why, part)
            latency = self._random.lognormal(3.2, 0.4, n) + working * 1.5
            answered = (outcome == int(Outcome.HEALTHY)) | (outcome == int(Outcome.UNHEALTHY))
            checks.append(
                {
                    "ts_us": ts_us,
                    "agent": np.full(n, place, np.int32),
                    "outcome": outcome,
                    "late_ms": self._random.exponential(1.5, n).astype(np.float32),
                    "latency_ms": np.where(answered, latency, np.nan).astype(np.float32),
                    "http_status": np.where(answered, np.where(outcome == 0, 200, 503), 0).astype(np.int16),
                    "reason": reason,
                }
            )
            up = outcome == int(Outcome.HEALTHY)
            samples.append((place, 0, np.where(up, np.round(working * self._random.gamma(4, 10, n)), np.nan)))
            samples.append((place, 1, np.where(up, working * 0.4 + self._random.exponential(0.3, n), np.nan)))
            samples.append((place, 2, np.where(up, self._random.poisson(0.5 + working / 20, n), np.nan)))
        return Batch(
            spool_id=spool,
            seq=seq,
            session=session,
            agents=names,
            hosts=_HOSTS,
            metrics=(_TOKENS, _CPU, _QUEUE, *_GAUGES),
            reasons=reasons,
            checks=make_checks(**{key: np.concatenate([each[key] for each in checks]) for key in checks[0]}),
            agent_samples=make_samples(**_long(ts_us, samples)),
            system_samples=make_samples(**_long(ts_us, list(self._hosts(n, ts_us, busy, first, filled)))),
            transitions=tuple(sorted(transitions, key=lambda each: each.due)),
            observed_to_us=to_us(part.end),
        )

    def _hosts(
        self,
        n: int,
        ts_us: np.ndarray[tuple[int], np.dtype[np.int64]],
        busy: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]],
        first: int,
        filled: dict[str, float],
    ) -> Iterator[tuple[int, int, np.ndarray[tuple[int], np.dtype[np.float64]]]]:
        """Yield the gauges of each host: half of the fleet works on each, and its disk fills by some percent a day."""
        for place, host in enumerate(_HOSTS):
            share = sum(busy[name][first : first + n] for name in list(self.types)[place::2]) / 60
            daily = np.sin((ts_us / 1e6 % 86_400) / 86_400 * 2 * np.pi)
            cpu = np.clip(8 + share * 18 + 3 * daily + self._random.normal(0, 2, n), 0, 100)
            disk = filled[host] + np.arange(n) * (1.5 + 2 * place) / 1_440
            filled[host] = float(disk[-1])
            yield place, 3, cpu
            yield place, 4, cpu / 20
            yield place, 5, np.clip(45 + share * 4 + self._random.normal(0, 1, n), 0, 100)
            yield place, 6, np.clip(disk, 0, 100)


def _days(window: Window) -> Iterator[Window]:
    """Yield the parts of *window* that lie within one UTC day each."""
    for day in window.buckets(DAY):
        yield Window(max(day, window.start), min(day + DAY, window.end))


def _changes(name: str, down: Window, kind: Outcome, why: str, part: Window) -> list[Transition]:
    """Return the changes of status within *part* that an outage makes; it counts from its second bad check on."""
    fall, rise = down.start + MINUTE, down.end
    return [
        Transition(agent=name, due=due, old=old, new=new, reason=reason)
        for due, old, new, reason in (
            (fall, "healthy", kind.label, why),
            (rise, kind.label, "healthy", ""),
        )
        if part.start <= due < part.end
    ]


def _long(
    ts_us: np.ndarray[tuple[int], np.dtype[np.int64]],
    samples: Sequence[tuple[int, int, np.ndarray[tuple[int], np.dtype[np.float64]]]],
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.generic]]]:
    """Return series, one value per moment, as columns; moments without a value are left out."""
    n = len(ts_us)
    value = np.concatenate([values for _, _, values in samples])
    there = np.isfinite(value)
    return {
        "ts_us": np.tile(ts_us, len(samples))[there],
        "entity": np.repeat([entity for entity, _, _ in samples], n)[there],
        "metric": np.repeat([metric for _, metric, _ in samples], n)[there],
        "value": value[there],
    }
