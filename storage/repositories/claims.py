"""
Which agent works on a task, and for how long: tasks are given out, leases made longer, and taken away when they end.

Several workers that ask at once do not wait for each other: each passes over what another one is about to get
(``SKIP LOCKED``; where there is only one writer at a time, they take turns). Each function is a part of the caller's
transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, CompoundSelect, Select, func, literal, or_, select, union_all
from sqlalchemy.orm import Session

from storage.errors import InputError, LeaseLost, StorageError, shown
from storage.models import Agent
from storage.payloads import check_name, several
from storage.repositories.agent_rows import insist_not_retired, unknown_agent
from storage.repositories.references import task_title
from storage.repositories.task_changes import change, move
from storage.states import TaskState
from storage.work_models import AgentCapability, Task, TaskDependency

#: Written into statements as they are: an index of some of the rows is used only where the words are its own.
_PENDING = literal(TaskState.PENDING.value, literal_execute=True)
_RUNNING = literal(TaskState.RUNNING.value, literal_execute=True)
_NONE = literal(0, literal_execute=True)

#: Far beyond any piece of work; what is longer is not meant to end by itself, and has no lease.
MAX_LEASE = timedelta(days=366)
#: Expired leases that one claim takes away: a few milliseconds, so that no worker does the tidying of all.
RECOVERED_PER_CLAIM = 100
#: Tasks of each type that are looked at, at first, for one that nobody else is about to get: more than workers that claim
#: in the same moment. A limit for each type lets the index of each give its first ones.
_CANDIDATES = 64
#: Times as many are looked at where all of these are somebody's, who cancels a large workflow for instance: a claim beside
#: 2,000 that are held takes 12 ms, beside 50,000 a quarter of a second.
_MORE_CANDIDATES = 16
#: Types above which a claim first asks which ones there is anything of: 1 ms, and 0.8 ms for each type that is looked up.
_FEW_TYPES = 32
#: Types above which they are not looked up one by one. SQLite unites no more than 500.
_MAX_UNITED = 100
#: A statement of SQLite takes 32,766 parameters.
MAX_TYPES = 10_000

_REMEDY = "drop the work, another attempt counts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """Tasks whose lease was over, by id in ascending order."""

    #: Pending again.
    retried: tuple[int, ...] = ()
    #: Given out as often as they may be.
    failed: tuple[int, ...] = ()


def claim(session: Session, agent: str, types: Collection[str] | None, lease: timedelta, now: datetime) -> Task | None:
    """Give *agent* the first task that is ready; see ``TaskRepository.claim``."""
    agent_id, capabilities = _worker(session, agent)
    recover(session, now, RECOVERED_PER_CLAIM)
    wanted = capabilities if types is None else types
    if types is not None and not types:
        return None
    found = _first(session, sorted(set(wanted)), now)
    return None if found is None else _start(session, found, agent_id, lease, now)


def ready(types: Collection[str] | None, now: datetime, limit: int) -> Select[Task]:
    """Return the statement that answers the first *limit* tasks that may be given out now, in that order."""
    return _ready(sorted(set(types or ())), now, limit).limit(limit)


def assign(
    session: Session, task: Task, agent: str, lease: timedelta | None, now: datetime, *, reason: str = ""
) -> Task:
    """
    Have *agent* begin with *task*, which is locked.

    Raises:
        UnknownName: There is no such agent.
        IllegalTransition: The task is not pending.
        StorageError: It waits for others, or the agent is retired.
    """
    agent_id, _ = _worker(session, agent)
    if task.state == TaskState.PENDING and task.blocked_by:
        raise _blocked(session, task)
    return _start(session, task, agent_id, lease, now, reason=reason)


def recover(session: Session, now: datetime, limit: int) -> Recovered:
    """Take away up to *limit* tasks whose lease is over; those that somebody else holds are left to that one."""
    statement = (
        select(Task)
        .where(Task.state == _RUNNING, Task.lease_until <= now)
        .order_by(Task.lease_until, Task.id)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
    )
    expired = session.scalars(statement).all()
    again = [task for task in expired if task.attempts < task.max_attempts]
    over = [task for task in expired if task.attempts >= task.max_attempts]
    reason = "its lease was over"
    outcome = "lease_expired"
    retried = move(session, again, TaskState.PENDING, now=now, reason=reason, outcome=outcome)
    failed = move(session, over, TaskState.FAILED, now=now, reason=f"{reason}, no attempts left", outcome=outcome)
    return Recovered(retried=tuple(task.id for task in retried), failed=tuple(task.id for task in failed))


def extend(session: Session, task: Task, lease: UUID, duration: timedelta, now: datetime) -> Task:
    """Have the lease of *task*, which is locked, end *duration* from *now*; see ``TaskRepository.extend_lease``."""
    insist_lease(task, lease, now)
    [extended] = change(session, [task.id], lease_until=now + duration)
    return extended


def insist_lease(task: Task, lease: UUID, now: datetime) -> None:
    """
    Insist that *task* is in the hands of whoever got *lease* with it.

    Raises:
        LeaseLost: It is not, or no longer.
        InputError: *lease* is no UUID.
    """
    if not isinstance(lease, UUID):
        raise InputError(
            f"lease is {shown(lease)}, expected the UUID that came with the task: of a text make uuid.UUID(text)"
        )
    if task.state != TaskState.RUNNING:
        raise LeaseLost(f"{task_title(task)} is {task.state}, expected it to run under lease {lease}: {_REMEDY}")
    if task.lease != lease or task.lease_until is None:
        raise LeaseLost(f"{task_title(task)} was given out again, lease {lease} is not in force any more: {_REMEDY}")
    if task.lease_until <= now:
        raise LeaseLost(f"{task_title(task)} was leased until {task.lease_until.isoformat()}, which is over: {_REMEDY}")


def insist_holder(session: Session, task: Task, agent: str) -> None:
    """
    Insist that *task*, which is running, is in the hands of *agent*.

    Raises:
        LeaseLost: It is another agent's.
    """
    holder = session.scalars(select(Agent.name).where(Agent.id == task.agent_id)).one()
    if holder != agent:
        raise LeaseLost(f'{task_title(task)} is in the hands of agent "{holder}", expected "{agent}": {_REMEDY}')


def check_lease(duration: object) -> None:
    """
    Insist that *duration* can be that of a lease.

    Raises:
        InputError: It cannot.
    """
    if not isinstance(duration, timedelta) or not timedelta(0) < duration <= MAX_LEASE:
        found = duration if isinstance(duration, timedelta) else shown(duration)
        raise InputError(f"lease is {found}, expected a timedelta of more than 0 s and at most {MAX_LEASE.days} days")


def check_types(types: Sequence[str] | None) -> list[str] | None:
    """
    Return *types* as a list; ``None`` is any.

    Raises:
        InputError: They are no types, or more than 10,000.
    """
    if types is None:
        return None
    found = several("types", types, str)
    if len(found) > MAX_TYPES:
        raise InputError(f"types are {len(found):,}, expected at most {MAX_TYPES:,}: None is any")
    for each in found:
        check_name("type of a task", each)
    return found


def _worker(session: Session, agent: str) -> tuple[int, set[str]]:
    """Return id and capabilities of *agent*, which is going to work."""
    rows = session.execute(
        select(Agent, AgentCapability.name)
        .outerjoin(AgentCapability, AgentCapability.agent_id == Agent.id)
        .where(Agent.name == agent)
    ).all()
    if not rows:
        raise unknown_agent(session, agent)
    insist_not_retired(rows[0][0])
    capabilities: set[str | None] = {name for _, name in rows}
    return rows[0][0].id, {name for name in capabilities if name is not None}


def _first(session: Session, types: Sequence[str], now: datetime) -> Task | None:
    """Return the first task that is ready and that nobody else is about to get, locked; no types are all."""
    if len(types) > _FEW_TYPES:
        types = sorted(set(types) & _waiting_types(session))
        if not types:
            return None
    candidates = _CANDIDATES
    while True:
        statement = _ready(types, now, candidates).limit(1)
        found = session.scalars(statement.with_for_update(of=Task, key_share=True, skip_locked=True)).first()
        if found is not None or not 1 < len(types) <= _MAX_UNITED:
            return found
        # What was looked at is somebody's. Of types that have more than that, the next ones may be free.
        first = _united(types, now, candidates).subquery()
        types = sorted(session.scalars(select(first.c.type).group_by(first.c.type).having(func.count() == candidates)))
        if not types:
            return None
        candidates *= _MORE_CANDIDATES


def _waiting_types(session: Session) -> set[str]:
    """Return the types of tasks that wait for a worker, due or not: the index is asked for one after the other."""
    # In the order of its index, which no other one has.
    least = (
        select(Task.type)
        .where(Task.state == _PENDING, Task.blocked_by == _NONE)
        .order_by(Task.type, Task.priority, Task.id)
        .limit(1)
    )
    found = select(least.scalar_subquery().label("type")).cte("found", recursive=True)
    following = least.where(Task.type > found.c.type).scalar_subquery()
    found = found.union_all(select(following).where(found.c.type.is_not(None)))
    return set(session.scalars(select(found.c.type).where(found.c.type.is_not(None))))


def _ready(types: Sequence[str], now: datetime, candidates: int) -> Select[Task]:
    """Return the statement of tasks that are ready, in the order in which they are given out; no types are all."""
    if not types:
        return select(Task).where(*_is_ready(now)).order_by(Task.priority, Task.id)
    if len(types) == 1:
        return select(Task).where(*_is_ready(now), Task.type == types[0]).order_by(Task.priority, Task.id)
    if len(types) > _MAX_UNITED:
        return select(Task).where(*_is_ready(now), Task.type.in_(types)).order_by(Task.priority, Task.id)
    first = _united(types, now, candidates).subquery()
    # Said again of the row itself: it is looked at once more when it is locked.
    return select(Task).join(first, first.c.id == Task.id).where(*_is_ready(now)).order_by(first.c.priority, first.c.id)


def _united(types: Sequence[str], now: datetime, candidates: int) -> CompoundSelect[int, int, str]:
    """
    Return the statement of the first tasks of each type: id, priority and type.

    That is one index scan for each, which ends at its first rows; "type IN (…)" would sort all that there are.
    """
    each = [
        select(Task.id, Task.priority, Task.type)
        .where(*_is_ready(now), Task.type == type_)
        .order_by(Task.priority, Task.id)
        .limit(candidates)
        .subquery()
        for type_ in types
    ]
    return union_all(*(select(one.c.id, one.c.priority, one.c.type) for one in each))


def _is_ready(now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (
        Task.state == _PENDING,
        Task.blocked_by == _NONE,
        or_(Task.due_at.is_(None), Task.due_at <= now),
    )


def _start(
    session: Session, task: Task, agent_id: int, lease: timedelta | None, now: datetime, *, reason: str = ""
) -> Task:
    leased: dict[str, Any] = {} if lease is None else {"lease": uuid4(), "lease_until": now + lease}
    [started] = move(session, [task], TaskState.RUNNING, now=now, reason=reason, agent_id=agent_id, **leased)
    return started


def _blocked(session: Session, task: Task) -> StorageError:
    before = session.scalars(
        select(Task)
        .join(TaskDependency, TaskDependency.depends_on == Task.id)
        .where(TaskDependency.task_id == task.id, Task.state != TaskState.COMPLETED)
        .order_by(Task.id)
        .limit(3)
    )
    listed = ", ".join(f"{task_title(each)}, which is {each.state}" for each in before)
    return StorageError(
        f"{task_title(task)} cannot begin: it waits for {task.blocked_by} other"
        f"{'s' if task.blocked_by > 1 else ''}, such as {listed}, expected completed"
    )
