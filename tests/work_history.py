"""
Agents' work as it stands in the tables: tasks with their runs and events, workflows, messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from storage.models import Agent
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
)

_FINAL = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Run:
    """One try of *agent*; moments in seconds after the history's zero, no end while it goes on."""

    agent: str
    started: float
    ended: float | None = None
    outcome: str | None = None
    reason: str = ""
    #: When the end was noticed: a lease ends before anybody sees it.
    seen: float | None = None


@contextmanager
def history(store: Store, zero: datetime) -> Iterator[WorkHistory]:
    """Return a history to write to; all of it is there at the end."""
    with Session(writing(store.engine)) as session, session.begin():
        yield WorkHistory(session, zero)


class WorkHistory:
    """Rows of work; every moment is given in seconds after *zero*."""

    def __init__(self, session: Session, zero: datetime) -> None:
        self.zero = zero
        self._session = session
        self._agents: dict[str, int] = {row.name: row.id for row in session.execute(select(Agent.id, Agent.name))}

    def at(self, seconds: float | None) -> datetime | None:
        """Return the moment *seconds* after zero."""
        return None if seconds is None else self.zero + timedelta(seconds=seconds)

    def workflow(
        self,
        name: str,
        *,
        type: str = "nightly",
        state: str = "running",
        made: float = 0,
        started: float | None = None,
        finished: float | None = None,
    ) -> int:
        """Add a workflow and return its id."""
        row = Workflow(
            name=name,
            type=type,
            state=state,
            created_at=self.at(made),
            started_at=self.at(started),
            finished_at=self.at(finished),
        )
        return self._id(row)

    def task(
        self,
        type: str,
        *runs: Run,
        state: str = "pending",
        name: str | None = None,
        workflow: int | None = None,
        made: float = 0,
        due: float | None = None,
        finished: float | None = None,
        lease_until: float | None = None,
        blocked_by: int = 0,
        after: Iterable[int] = (),
    ) -> int:
        """
        Add a task with its runs and the events that they left, and return its id.

        Args:
            finished: Of a task in a final state, the end of its last run where it is not given.
            after: Ids of the tasks that it depends on.
        """
        if state in _FINAL and finished is None:
            finished = runs[-1].ended
        row = Task(
            type=type,
            state=state,
            name=name,
            workflow_id=workflow,
            blocked_by=blocked_by,
            attempts=len(runs),
            agent_id=self._agents[runs[-1].agent] if runs else None,
            lease=None if lease_until is None else uuid4(),
            lease_until=self.at(lease_until),
            due_at=self.at(due),
            created_at=self.at(made),
            started_at=self.at(runs[-1].started) if runs else None,
            finished_at=self.at(finished),
        )
        task = self._id(row)
        self._event(task, made, None, "pending")
        before = "pending"
        for attempt, run in enumerate(runs, start=1):
            agent = self._agents[run.agent]
            self._session.add(
                TaskAssignment(
                    task_id=task,
                    agent_id=agent,
                    attempt=attempt,
                    started_at=self.at(run.started),
                    ended_at=self.at(run.ended),
                    outcome=run.outcome,
                )
            )
            if before == "failed":
                self._event(task, run.started, "failed", "pending")
            self._event(task, run.started, "pending", "running", agent)
            if run.ended is not None and run.outcome is not None:
                last = attempt == len(runs)
                before = state if last else "failed" if run.outcome == "failed" else "pending"
                seen = run.ended if run.seen is None else run.seen
                self._event(task, seen, "running", before, agent, run.reason)
        for other in after:
            self._session.add(TaskDependency(task_id=task, depends_on=other))
        return task

    def layers(self, type: str, workflow: int, agent: str, *, seconds: Sequence[float], depth: int) -> None:
        """
        Add layers of pending tasks, each of which waits for all of the layer before, to a database without tasks.

        Args:
            seconds: How long the task in this place of each layer ran, and failed; its name is ``layer.place``.
        """
        width = len(seconds)
        ids = range(1, depth * width + 1)
        ran = [seconds[(task - 1) % width] for task in ids]
        self._session.execute(
            insert(Task),
            [
                {
                    "id": task,
                    "type": type,
                    "workflow_id": workflow,
                    "name": f"{(task - 1) // width}.{(task - 1) % width}",
                    "blocked_by": 0 if task <= width else width,
                    "attempts": 1,
                    "created_at": self.zero,
                }
                for task in ids
            ],
        )
        self._session.execute(
            insert(TaskAssignment),
            [
                {
                    "task_id": task,
                    "agent_id": self._agents[agent],
                    "attempt": 1,
                    "started_at": self.at(-took),
                    "ended_at": self.zero,
                    "outcome": "failed",
                }
                for task, took in zip(ids, ran, strict=True)
            ],
        )
        self._session.execute(
            insert(TaskDependency),
            [
                {"task_id": task, "depends_on": other}
                for task in ids[width:]
                for other in ids[((task - 1) // width - 1) * width :][:width]
            ],
        )

    def message(
        self,
        sender: str,
        recipient: str | None,
        payload: Any,
        *,
        made: float = 0,
        delivered: float | None = None,
        state: str = "pending",
    ) -> None:
        """Add a message; without a recipient it is to everybody."""
        self._session.add(
            Message(
                sender_id=self._agents[sender],
                recipient_id=None if recipient is None else self._agents[recipient],
                type="note",
                state=state,
                payload=payload,
                created_at=self.at(made),
                delivered_at=self.at(delivered),
            )
        )

    def capable(self, agent: str, *names: str) -> None:
        """Say that *agent* can do *names*."""
        for name in names:
            self._session.add(AgentCapability(agent_id=self._agents[agent], name=name, details={}, added_at=self.zero))

    def requeued(self, task: int, at: float) -> None:
        """Add the event of a person who has *task* tried again."""
        self._event(task, at, "failed", "pending")

    def _event(
        self, task: int, at: float, old: str | None, new: str, agent: int | None = None, reason: str = ""
    ) -> None:
        self._session.add(
            TaskEvent(task_id=task, ts=self.at(at), from_state=old, to_state=new, agent_id=agent, reason=reason)
        )

    def _id(self, row: Workflow | Task) -> int:
        self._session.add(row)
        self._session.flush()
        return row.id
