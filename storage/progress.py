"""
What tells whether agents get anywhere: their heartbeats, the tasks that they work on, and how long tasks usually take.

Asked for every few seconds by each collector, so every statement is answered from an index or from the agents alone,
but for the quantiles: those go through the runs of a week, once in several minutes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Engine, func, or_, select

from storage.models import Agent
from storage.sqlstate import translated
from storage.work_models import AgentHeartbeat, Task, TaskAssignment

#: Below so many runs the slowest of twenty is nobody.
MIN_RUNS = 20


class Heartbeat(NamedTuple):
    """The last sign of life of an agent."""

    agent: str
    registered_at: datetime
    #: ``None`` for an agent that gave none.
    at: datetime | None


class Run(NamedTuple):
    """A task that an agent works on."""

    agent: str
    task_id: int
    type: str
    started_at: datetime


def heartbeats(engine: Engine, types: Collection[str] | None) -> Sequence[Heartbeat]:
    """
    Return the last heartbeat of each agent that is looked at by probe ``heartbeat`` or is of one of *types*.

    Args:
        types: ``None`` for all.

    Raises:
        TransientStorageError: The database could not be reached.
    """
    statement = (
        select(Agent.name, Agent.created_at, AgentHeartbeat.at)
        .outerjoin(AgentHeartbeat, AgentHeartbeat.agent_id == Agent.id)
        .where(Agent.state != "retired")
    )
    if types is not None:
        statement = statement.where(or_(Agent.probe == "heartbeat", Agent.type.in_(types)))
    with translated("reading heartbeats"), engine.connect() as connection:
        return [Heartbeat(*row) for row in connection.execute(statement)]


def running(engine: Engine, started_before: datetime) -> Sequence[Run]:
    """
    Return the tasks that are being worked on and were begun before *started_before*, the oldest first.

    Raises:
        TransientStorageError: The database could not be reached.
    """
    statement = (
        select(Agent.name, TaskAssignment.task_id, Task.type, TaskAssignment.started_at)
        .join(Task, Task.id == TaskAssignment.task_id)
        .join(Agent, Agent.id == TaskAssignment.agent_id)
        .where(TaskAssignment.ended_at.is_(None), TaskAssignment.started_at < started_before)
        # The order of the index that has open tries alone. In the order of their beginnings SQLite would go through the
        # index of all there ever were: 270 ms of a million, 3 ms so.
        .order_by(TaskAssignment.task_id)
    )
    with translated("reading running tasks"), engine.connect() as connection:
        runs = [Run(*row) for row in connection.execute(statement)]
    return sorted(runs, key=lambda run: (run.started_at, run.task_id))


def p95_by_type(engine: Engine, types: Collection[str], since: datetime) -> dict[str, timedelta]:
    """
    Return how long 95 % of the completed runs of each of *types* that began since *since* took at most.

    That is ``percentile_disc(0.95)``: the duration of a run that there was. Types with fewer than ``MIN_RUNS`` runs are
    absent.

    Raises:
        TransientStorageError: The database could not be reached.
    """
    run = TaskAssignment
    ranked = (
        select(
            Task.type,
            run.started_at,
            run.ended_at,
            func.row_number().over(partition_by=Task.type, order_by=run.ended_at - run.started_at).label("place"),
            func.count().over(partition_by=Task.type).label("n"),
        )
        .join(Task, Task.id == run.task_id)
        .where(run.started_at >= since, run.outcome == "completed", Task.type.in_(types))
        .subquery()
    ).c
    # The first place that is not before 95 % of them, in whole numbers.
    statement = select(ranked.type, ranked.started_at, ranked.ended_at).where(
        ranked.n >= MIN_RUNS, 100 * ranked.place >= 95 * ranked.n, 100 * (ranked.place - 1) < 95 * ranked.n
    )
    with translated("reading durations of tasks"), engine.connect() as connection:
        return {name: ended_at - started_at for name, started_at, ended_at in connection.execute(statement)}
