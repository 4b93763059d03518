"""
Finished work past its time: what goes, what stays, that nothing is left of what went, and that workers go on meanwhile.

Taken out once, and seen to fail: the locks of tasks, the second look at what is locked, the count of what a cancelled
task waits for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from random import Random

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from rollups.policy import RetentionPolicy
from rollups.retention import apply, past_work
from storage.errors import IllegalTransition, UnknownName
from storage.models import Agent
from storage.repositories import MessageRepository, past
from storage.repositories.past import PastWork, PastWorkRepository
from storage.store import Capability, Store
from storage.transactions import writing
from storage.work_models import (
    Message,
    MessageEvent,
    SubTask,
    Task,
    TaskAssignment,
    TaskDependency,
    TaskEvent,
    Workflow,
    WorkflowEvent,
)
from tests.batches import NOON
from tests.fleet import add_agent
from tests.work import Desk, lies

pytestmark = pytest.mark.each_kind

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
TABLES = (Workflow, WorkflowEvent, Task, TaskEvent, SubTask, TaskAssignment, TaskDependency, Message, MessageEvent)


class Work:
    """Puts work of one agent into a database, as of NOON."""

    def __init__(self, store: Store) -> None:
        add_agent(store, "a")
        self._engine = writing(store.engine)
        with Session(self._engine) as session:
            self._agent = session.scalars(select(Agent.id)).one()

    def workflow(self, name: str, state: str, *tasks: str, ended: datetime = NOON) -> list[int]:
        """Add a workflow with tasks in these states, each with everything that a task has; return the tasks' ids."""
        final = state not in ("pending", "running")
        with Session(self._engine) as session, session.begin():
            made = Workflow(name=name, type="t", state=state, created_at=NOON, finished_at=ended if final else None)
            session.add(made)
            session.flush()
            session.add(WorkflowEvent(workflow_id=made.id, ts=NOON, to_state="pending"))
            return [self._task(session, made.id, each, ended) for each in tasks]

    def task(self, state: str, ended: datetime = NOON) -> int:
        """Add a task without a workflow."""
        with Session(self._engine) as session, session.begin():
            return self._task(session, None, state, ended)

    def wait(self, task: int, depends_on: int) -> None:
        """Let one task wait for another."""
        with Session(self._engine) as session, session.begin():
            session.add(TaskDependency(task_id=task, depends_on=depends_on))

    def _task(self, session: Session, workflow: int | None, state: str, ended: datetime) -> int:
        final = state not in ("pending", "running")
        task = Task(workflow_id=workflow, type="t", state=state, created_at=NOON, finished_at=ended if final else None)
        session.add(task)
        session.flush()
        message = Message(sender_id=self._agent, workflow_id=workflow, task_id=task.id, type="t", created_at=NOON)
        session.add_all(
            [
                message,
                SubTask(task_id=task.id, position=1, name="s", created_at=NOON),
                TaskAssignment(task_id=task.id, agent_id=self._agent, attempt=1, started_at=NOON),
                TaskEvent(task_id=task.id, ts=NOON, to_state="pending"),
            ]
        )
        session.flush()
        session.add(MessageEvent(message_id=message.id, ts=NOON, to_state="pending"))
        return task.id


def counts(store: Store) -> dict[str, int]:
    """Return the number of rows of each table of work that has any."""
    with Session(store.engine) as session:
        found = {each.__tablename__: session.scalar(select(func.count()).select_from(each)) or 0 for each in TABLES}
    return {name: number for name, number in found.items() if number}


def left(store: Store) -> tuple[Sequence[str], Sequence[int]]:
    """Return the names of workflows and the ids of tasks that are left."""
    with Session(store.engine) as session:
        return (
            session.scalars(select(Workflow.name).order_by(Workflow.name)).all(),
            session.scalars(select(Task.id).order_by(Task.id)).all(),
        )


def test_only_what_has_ended_as_a_whole_goes(store: Store) -> None:
    """A workflow goes with its tasks once all of it has ended long enough ago, and nothing of it is left."""
    work = Work(store)
    work.workflow("done", "completed", "completed", "failed", "cancelled")
    work.workflow("empty", "cancelled")
    late = work.workflow("late", "completed", "completed", ended=NOON + HOUR)
    at_work = work.workflow("at work", "running", "completed")
    straggler = work.workflow("straggler", "failed", "failed", "running")
    work.task("completed")
    alone = [work.task("pending"), work.task("failed", ended=NOON + HOUR)]
    repository = PastWorkRepository(store.engine)
    counted = repository.count(NOON + HOUR, None)
    gone = repository.purge(NOON + HOUR, None)
    again = repository.purge(NOON + HOUR, None)

    assert counted == gone == PastWork(workflows=2, tasks=4)
    assert again == PastWork()
    assert left(store) == (["at work", "late", "straggler"], sorted([*late, *at_work, *straggler, *alone]))
    # Six tasks are left with all that each has; messages stay, and speak of what is left only.
    assert counts(store) == {
        "workflows": 3,
        "workflow_events": 3,
        "tasks": 6,
        "task_events": 6,
        "subtasks": 6,
        "task_assignments": 6,
        "messages": 10,
        "message_events": 10,
    }
    with Session(store.engine) as session:
        assert session.scalar(select(func.count()).where(Message.task_id.is_(None), Message.workflow_id.is_(None))) == 4


def test_what_somebody_waits_for_stays(store: Store) -> None:
    """A failed task may be tried again for those that wait for it; what only finished tasks waited for goes."""
    work = Work(store)
    [awaited, other] = work.workflow("awaited", "failed", "failed", "completed")
    [first, second] = work.workflow("chain", "completed", "completed", "completed")
    [waiting] = work.workflow("waiting", "running", "pending")
    work.wait(waiting, awaited)
    work.wait(second, first)
    alone = work.task("failed")
    work.wait(waiting, alone)
    gone = PastWorkRepository(store.engine).purge(NOON + HOUR, None)

    assert gone == PastWork(workflows=1, tasks=2)
    assert left(store) == (["awaited", "waiting"], sorted([awaited, other, waiting, alone]))
    assert counts(store)["task_dependencies"] == 2


def test_task_that_ended_later_keeps_its_workflow(store: Store) -> None:
    """A workflow that was said to have failed while a task went on is past when that task is."""
    desk = Desk(store)
    desk.workflows.create("w", now=desk.now)
    task = desk.task("t", workflow="w")
    desk.move(task, "running")
    for state in ("running", "failed"):
        desk.workflows.set_state("w", state, now=desk.now)
    desk.wait(DAY)
    desk.move(task, "completed")
    repository = PastWorkRepository(store.engine)
    early = repository.purge(desk.now - HOUR, None)

    assert early == PastWork()
    assert repository.purge(desk.now + HOUR, None) == PastWork(workflows=1, tasks=1)


def test_failed_task_that_waits_keeps_what_it_waits_for(store: Store) -> None:
    """A failed task that may be tried again finds what it waits for, failed or not; both go when its workflow does."""
    desk = Desk(store)
    repository = PastWorkRepository(store.engine)
    desk.workflows.create("live", now=desk.now)
    desk.workflows.set_state("live", "running", now=desk.now)
    waiting = desk.in_state("failed", name="waiting", workflow="live")
    before = [desk.in_state(state) for state in ("failed", "completed", "cancelled")]
    for each in before:
        desk.tasks.add_dependency(waiting.id, each.id)
    desk.wait(DAY)

    assert repository.count(desk.now, None) == repository.purge(desk.now, None) == PastWork()
    desk.tasks.retry(waiting.id, now=desk.now)
    desk.move(before[0], "pending", "running", "completed")
    assert desk.tasks.get(waiting.id).blocked_by == 1
    assert lies(store) == {}
    desk.move(waiting, "cancelled")
    desk.workflows.set_state("live", "failed", now=desk.now)
    desk.wait(DAY)
    assert repository.count(desk.now, None) == repository.purge(desk.now, None) == PastWork(workflows=1, tasks=4)
    assert counts(store) == {}


def test_what_waits_for_each_other_goes_together(store: Store) -> None:
    """Failed tasks of workflows that wait for each other keep nothing once all of it is past, and everything before."""
    desk = Desk(store)
    repository = PastWorkRepository(store.engine)
    for name in ("v", "w", "x"):
        desk.workflows.create(name, now=desk.now)
        desk.workflows.set_state(name, "running", now=desk.now)
    first = {name: desk.in_state("failed", name="first", workflow=name) for name in ("v", "w", "x")}
    last = {name: desk.in_state("failed", name="last", workflow=name) for name in ("v", "w", "x")}
    loose = desk.in_state("failed")
    # A circle of v, w and the loose task, though none of their tasks; and x waits for it.
    for task, before in (
        (last["v"], first["w"]),
        (last["w"], loose),
        (loose, first["v"]),
        (last["v"], first["v"]),
        (last["x"], first["w"]),
    ):
        desk.tasks.add_dependency(task.id, before.id)
    for name in ("v", "w"):
        desk.workflows.set_state(name, "failed", now=desk.now)
    desk.wait(DAY)

    assert repository.count(desk.now, None) == repository.purge(desk.now, None) == PastWork()
    desk.workflows.set_state("x", "failed", now=desk.now)
    desk.wait(DAY)
    limit, past.PURGE_ROWS = past.PURGE_ROWS, 2
    try:
        counted = repository.count(desk.now, None)
        gone, states = PastWork(), []
        while (part := repository.purge(desk.now, None)).rows:
            gone += part
            states.append(lies(store))
    finally:
        past.PURGE_ROWS = limit
    assert counted == gone == PastWork(workflows=3, tasks=7)
    assert states == [{}] * len(states)
    assert counts(store) == {}


def test_cancelled_task_does_not_count_what_is_gone(store: Store) -> None:
    """A cancelled task keeps nothing that it would have waited for, and says how many of these are left."""
    desk = Desk(store)
    kept, gone = desk.task("kept"), desk.in_state("failed", name="gone")
    waiting = desk.task("waiting", depends_on=(kept.id, gone.id))
    desk.wait(DAY)
    desk.move(waiting, "cancelled")
    found = PastWorkRepository(store.engine).purge(desk.now, None)

    assert found == PastWork(tasks=1)
    assert desk.tasks.get(waiting.id).blocked_by == 1
    assert [task.id for task in desk.tasks.dependencies(waiting.id)] == [kept.id]
    assert lies(store) == {}


def test_large_workflows_go_one_by_one(store: Store) -> None:
    """One transaction takes as many workflows as have some thousand tasks together, and one that has more by itself."""
    work = Work(store)
    for number, size in enumerate((2, 1, 4, 0, 1)):
        work.workflow(f"w{number}", "completed", *["completed"] * size)
    repository, gone = PastWorkRepository(store.engine), []
    limit, past.PURGE_TASKS = past.PURGE_TASKS, 3
    try:
        while (part := repository.purge(NOON + HOUR, None)).rows:
            gone.append((part.workflows, part.tasks))
    finally:
        past.PURGE_TASKS = limit

    assert gone == [(2, 3), (1, 4), (2, 1)]


def test_retention_forgets_by_its_policy(store: Store) -> None:
    """Work and messages are kept for ever unless the policy says otherwise; a large backlog goes bit by bit."""
    work = Work(store)
    for number in range(7):
        work.workflow(f"w{number}", "completed", "completed")
    later = NOON + timedelta(days=10)
    kept = apply(store, RetentionPolicy(), later)
    before = counts(store)
    policy = RetentionPolicy(work=timedelta(days=10) - HOUR, messages=timedelta(days=9))
    planned = past_work(store, policy, later)
    limit, past.PURGE_ROWS = past.PURGE_ROWS, 3
    try:
        done = apply(store, policy, later)
    finally:
        past.PURGE_ROWS = limit

    assert kept.work == PastWork()
    assert before["workflows"] == before["tasks"] == before["messages"] == 7
    assert planned == done.work == PastWork(workflows=7, tasks=7, messages=7)
    assert done.ok
    assert counts(store) == {}


# ---------------------------------------------------------------- beside workers


@contextmanager
def once_after(store: Store, call: Callable[[], object], *words: str) -> Iterator[None]:
    """Do something else right after the first statement that has all of *words*; insist that there was one."""
    done = False

    def look(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal done
        if not done and all(word in statement for word in words):
            done = True
            call()

    event.listen(store.engine, "after_cursor_execute", look)
    try:
        yield
    finally:
        event.remove(store.engine, "after_cursor_execute", look)
    assert done


def failed_workflow(desk: Desk, name: str = "w") -> Task:
    """Make a workflow that has failed with its only task; return the task."""
    desk.workflows.create(name, now=desk.now)
    desk.workflows.set_state(name, "running", now=desk.now)
    task = desk.in_state("failed", name="t", workflow=name)
    desk.workflows.set_state(name, "failed", now=desk.now)
    return task


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_task_that_begins_to_wait_meanwhile(store: Store) -> None:
    """What is waited for after retention chose its workflow stays, and whoever waits is not blocked for ever."""
    desk = Desk(store)
    before = failed_workflow(desk)
    made: list[Task] = []
    desk.wait(DAY)

    def wait() -> None:
        made.append(desk.task(depends_on=(before.id,)))

    with once_after(store, wait, "FROM workflows", "FOR UPDATE SKIP LOCKED"):
        gone = PastWorkRepository(store.engine).purge(desk.now, None)

    assert gone == PastWork()
    assert [[each.id for each in desk.tasks.dependencies(task.id)] for task in made] == [[before.id]]
    assert lies(store) == {}


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_task_that_is_tried_again_meanwhile(store: Store) -> None:
    """A retry that comes in between the choice and the locks is not forgotten with the task."""
    desk = Desk(store)
    first, second = failed_workflow(desk, "v"), failed_workflow(desk, "w")
    other = desk.in_state("failed")
    # They wait for each other: what goes of such ones is found by statements that lock nothing.
    for task, before in ((second, first), (other, second)):
        desk.tasks.add_dependency(task.id, before.id)
    desk.wait(DAY)
    with once_after(store, lambda: desk.tasks.retry(second.id, now=desk.now), "SELECT DISTINCT", "workflow_id IN ("):
        gone = PastWorkRepository(store.engine).purge(desk.now, None)

    assert gone == PastWork(tasks=1)
    assert desk.tasks.get(second.id).state == "pending"
    assert [task.id for task in desk.tasks.dependencies(second.id)] == [first.id]
    assert lies(store) == {}


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_what_somebody_is_at_is_left(store: Store) -> None:
    """Nobody is waited for: where one task is in somebody's hands its workflow stays as a whole, others go."""
    work = Work(store)
    [held, *_] = work.workflow("held", "completed", "completed", "completed")
    work.workflow("other", "completed", "completed")
    alone = [work.task("completed") for _ in range(2)]
    repository = PastWorkRepository(store.engine)
    with Session(store.engine) as session, session.begin():
        # As a message about it does.
        session.execute(select(Task.id).where(Task.id.in_([held, alone[0]])).with_for_update(read=True, key_share=True))
        gone = repository.purge(NOON + HOUR, None)

    assert gone == PastWork(workflows=1, tasks=2)
    assert left(store)[0] == ["held"]
    assert repository.purge(NOON + HOUR, None) == PastWork(workflows=1, tasks=3)


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
@pytest.mark.parametrize("workflow", [True, False], ids=["in a workflow", "alone"])
def test_who_comes_too_late(store: Store, workflow: bool) -> None:
    """Whoever has looked at a task that goes the next moment learns that there is none, and nothing is half done."""
    desk = Desk(store)
    messages, repository = MessageRepository(store.engine), PastWorkRepository(store.engine)
    own = desk.task()
    late: list[Callable[[int], object]] = [
        lambda task: messages.log("ann", None, "t", task=task, now=desk.now),
        lambda task: desk.tasks.add_dependency(own.id, task),
        lambda task: desk.tasks.retry(task, now=desk.now),
    ]
    gone: list[PastWork] = []
    for number, call in enumerate(late):
        task = failed_workflow(desk, f"w{number}") if workflow else desk.in_state("failed")
        desk.wait(DAY)
        # Its first look locks nothing.
        with (
            once_after(store, lambda: gone.append(repository.purge(desk.now, None)), "FROM tasks"),
            pytest.raises(UnknownName, match=r"there is no (task|workflow) \d"),
        ):
            call(task.id)

    assert gone == [PastWork(workflows=int(workflow), tasks=1)] * 3
    assert desk.tasks.get(own.id).version == own.version
    assert counts(store).keys() == {"tasks", "task_events"}
    assert lies(store) == {}


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_retention_beside_workers(store: Store) -> None:
    """Nothing that workers heard was done is undone, and no task waits for what is gone."""
    desk, messages = Desk(store), MessageRepository(store.engine)
    old = [failed_workflow(desk, f"w{number}").id for number in range(20)]
    own = [desk.task().id for _ in range(3)]
    desk.wait(DAY)
    cut, done, start = desk.now, threading.Event(), threading.Barrier(4)

    def purge() -> int:
        start.wait(timeout=60)
        try:
            # What is in somebody's hands is left for the next time.
            return sum(PastWorkRepository(store.engine).purge(cut, None).tasks for _ in range(3))
        finally:
            done.set()

    def work(mine: int) -> list[int]:
        random, again = Random(mine), list[int]()
        start.wait(timeout=60)
        while not done.is_set():
            task = random.choice(old)
            with suppress(UnknownName, IllegalTransition):
                match random.randrange(8):
                    case 0:
                        desk.tasks.retry(task, now=cut)
                        again.append(task)
                    case 1:
                        messages.log("ann", None, "t", task=task, now=cut)
                    case 2 | 3:
                        desk.tasks.add_dependency(mine, task)
                    case _:
                        desk.task(depends_on=(task,))
        return again

    with ThreadPoolExecutor(4) as pool:
        purging = pool.submit(purge)
        again = {task for tasks in pool.map(work, own) for task in tasks}
        gone = purging.result()
    kept = {task.id for task in desk.tasks.list(limit=10_000)}

    assert again <= kept
    assert gone == len(set(old) - kept)
    assert lies(store) == {}
