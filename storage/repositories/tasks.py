"""
Tasks: made, given out with a lease, finished, tried again; their steps, dependencies and history.

A task is ready when it is pending, all that it depends on is completed, and its due moment has come. Of those that are
ready the one of the lowest ``priority`` comes first, then the one of the lowest id. A worker claims a task for the time
of a lease and hands the lease over again when it finishes; when the lease ends before that, the task goes to another
worker, and what the first one says of it then is refused. What is returned are plain values, which change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from storage.errors import IllegalTransition, InputError, UnknownName
from storage.model import aware
from storage.payloads import check_filter, check_integer, check_name, check_payload, check_text, several
from storage.repositories import claims, dependencies, steps, task_pages
from storage.repositories.agent_rows import agent_ids, insist_name
from storage.repositories.base import PAGE_SIZE, Page, Repository, check_after, check_limit, check_version, page_of
from storage.repositories.claims import Recovered
from storage.repositories.references import (
    WorkflowRef,
    find_task,
    find_workflow,
    insist_id,
    insist_open,
    insist_task,
    insist_workflow,
    keep_workflows,
    lock_task,
    task_title,
    unknown_id,
)
from storage.repositories.task_changes import dependent_ids, move, unblock
from storage.repositories.task_creation import TaskSpec, check_specs, create_tasks
from storage.states import TASK, TaskState
from storage.work_models import SubTask, Task, TaskAssignment, TaskDependency, TaskEvent

__all__ = ["Recovered", "TaskRepository", "TaskSpec"]

Row = TypeVar("Row", Task, SubTask, TaskEvent, TaskAssignment)
# Within the class ``list`` is a method.
Rows = list[Row]
Tasks = list[Task]


class TaskRepository(Repository):
    """The tasks of one database."""

    # ---------------------------------------------------------------- making

    def create(self, spec: TaskSpec, now: datetime) -> Task:
        """
        Make a task, pending.

        Raises:
            InputError: A name, number or payload cannot be stored.
            UnknownName: There is no such workflow, or no such task among those that it depends on.
            DuplicateName: Its workflow has a task of that name.
            DependencyCycle: It depends on itself.
            StorageError: The workflow has ended for good.
            TransientStorageError: The database could not be reached.
        """
        [task] = self.create_many([spec], now)
        return task

    def create_many(self, specs: Iterable[TaskSpec], now: datetime) -> Tasks:
        """
        Make tasks as ``create`` does, in one transaction: all of them, or none.

        Returns:
            The tasks in the order of *specs*.

        Raises:
            DependencyCycle: They would wait for each other.
            InputError: As ``create``; or they are something else, or more than 10,000.
        """
        wanted = several("specs", specs, TaskSpec)
        check_specs(wanted)
        return self._write("making tasks", lambda session: create_tasks(session, wanted, aware(now)))

    # ---------------------------------------------------------------- reading

    def get(self, task_id: int) -> Task:
        """
        Return the task of that id.

        Raises:
            UnknownName: There is none.
            TransientStorageError: The database could not be reached.
        """
        return self._read("reading a task", lambda session: find_task(session, task_id))

    def list(
        self,
        *,
        workflow: WorkflowRef | None = None,
        state: str | None = None,
        type: str | None = None,
        agent: str | None = None,
        limit: int = PAGE_SIZE,
        after: int | None = None,
    ) -> Page[Task]:
        """
        Return tasks by id, as many as *limit*.

        Args:
            agent: Name of the agent that works on them, or was the last to.
            after: What the page before says in its ``after``.

        Raises:
            UnknownName: There is no such workflow or agent.
            InputError: There is no such state, *type* cannot be one, or *limit* is not the size of a page.
            TransientStorageError: The database could not be reached.
        """
        TASK.insist_state(state)
        return self._page(workflow, limit, after, state=state, type=type, agent=agent)

    def failed(
        self,
        *,
        workflow: WorkflowRef | None = None,
        type: str | None = None,
        since: datetime | None = None,
        limit: int = PAGE_SIZE,
        after: int | None = None,
    ) -> Page[Task]:
        """
        Return tasks that have failed, by id, as many as *limit*.

        Args:
            since: Those that failed at this moment or later.
            after: What the page before says in its ``after``.

        Raises:
            UnknownName: There is no such workflow.
            InputError: *type* cannot be one, *since* has no time zone, or *limit* is not the size of a page.
            TransientStorageError: The database could not be reached.
        """
        failed_since = None if since is None else aware(since, "since")
        return self._page(workflow, limit, after, state=TaskState.FAILED, type=type, failed_since=failed_since)

    def ready(self, types: Sequence[str] | None = None, limit: int = PAGE_SIZE, *, now: datetime) -> Tasks:
        """
        Return the tasks that may be given out now, in the order in which they are.

        Args:
            types: Of these types; ``None`` is any.

        Raises:
            InputError: *types* are none, or *limit* is not the size of a page.
            TransientStorageError: The database could not be reached.
        """
        check_limit(limit)
        asked = claims.check_types(types)
        if asked is not None and not asked:
            return []
        wanted = claims.ready(asked, aware(now), limit)
        return self._read("reading tasks that are ready", lambda session: list(session.scalars(wanted)))

    def history(self, task_id: int) -> Rows[TaskEvent]:
        """
        Return every change of the task's state, oldest first.

        Raises:
            UnknownName: There is no such task.
            TransientStorageError: The database could not be reached.
        """
        wanted = select(TaskEvent).where(TaskEvent.task_id == task_id).order_by(TaskEvent.id)
        return self._of_task(task_id, wanted)

    def assignments(self, task_id: int) -> Rows[TaskAssignment]:
        """
        Return every try at the task, oldest first.

        Raises:
            UnknownName: There is no such task.
            TransientStorageError: The database could not be reached.
        """
        wanted = select(TaskAssignment).where(TaskAssignment.task_id == task_id).order_by(TaskAssignment.attempt)
        return self._of_task(task_id, wanted)

    # ---------------------------------------------------------------- giving out

    def claim(self, agent: str, types: Sequence[str] | None = None, *, lease: timedelta, now: datetime) -> Task | None:
        """
        Give *agent* the first task that is ready, running from now on; ``None`` where there is none.

        Leases that are over are ended before that, as ``recover`` does.

        Args:
            types: Of these types; ``None`` is what the agent is capable of, and any where it has not said what that is.
            lease: How long the task is the agent's. What to hand over at the end is in ``Task.lease``.

        Raises:
            UnknownName: There is no such agent.
            StorageError: The agent is retired.
            InputError: *types* are none, or *lease* is nothing or above a year.
            TransientStorageError: The database could not be reached.
        """
        insist_name(agent)
        asked = claims.check_types(types)
        claims.check_lease(lease)
        aware(now)
        return self._write("claiming a task", lambda session: claims.claim(session, agent, asked, lease, now))

    def assign(self, task_id: int, agent: str, *, lease: timedelta | None, now: datetime) -> Task:
        """
        Give *agent* that very task, running from now on, due or not.

        Args:
            lease: How long the task is the agent's; with ``None`` nobody takes it away.

        Raises:
            UnknownName: There is no such task or agent.
            IllegalTransition: The task is not pending.
            StorageError: It waits for others, or the agent is retired.
            InputError: *lease* is nothing, or above a year.
            TransientStorageError: The database could not be reached.
        """
        insist_name(agent)
        if lease is not None:
            claims.check_lease(lease)
        aware(now)

        def work(session: Session) -> Task:
            return claims.assign(session, lock_task(session, task_id), agent, lease, now)

        return self._write("assigning a task", work)

    def extend_lease(self, task_id: int, lease: UUID, duration: timedelta, now: datetime) -> Task:
        """
        Have the lease end *duration* from now.

        Raises:
            UnknownName: There is no such task.
            LeaseLost: The lease is over, or the task has another one.
            InputError: *duration* is nothing, or above a year.
            TransientStorageError: The database could not be reached.
        """
        claims.check_lease(duration)
        aware(now)

        def work(session: Session) -> Task:
            return claims.extend(session, lock_task(session, task_id), lease, duration, now)

        return self._write("extending a lease", work)

    def recover(self, now: datetime, limit: int = PAGE_SIZE) -> Recovered:
        """
        End up to *limit* leases that are over: their tasks are pending again, or failed where no attempts are left.

        Raises:
            InputError: *limit* is not the size of a page.
            TransientStorageError: The database could not be reached.
        """
        check_limit(limit)
        aware(now)
        return self._write("recovering tasks", lambda session: claims.recover(session, now, limit))

    # ---------------------------------------------------------------- changing

    def set_state(
        self,
        task_id: int,
        state: str,
        *,
        now: datetime,
        reason: str = "",
        result: Any = None,
        agent: str | None = None,
        lease: UUID | None = None,
        version: int | None = None,
    ) -> Task:
        """
        Take the task to *state*.

        A worker says its *lease*; without one this is the word of a person, whoever has the task. A task that is
        cancelled takes its open steps with it; one that goes back to pending gets one more attempt if it has none left.

        Args:
            reason: Why, for the history; of a task that failed or was cancelled it is kept with it.
            result: A JSON value, of a task that is completed or failed.
            agent: Who says so. To ``running``: who begins with it. From there on, but for cancelling, it has to be the
                one that has it.
            lease: What the worker got with the task.
            version: The version that the caller has read.

        Raises:
            UnknownName: There is no such task or agent.
            StaleVersion: It has another version by now.
            LeaseLost: It is not, or no longer, that agent's, or not under that lease.
            IllegalTransition: It cannot go there from where it is.
            StorageError: It is to run and waits for others, or the agent is retired; it is to be tried again and its
                workflow has ended for good.
            InputError: *result* or *reason* cannot be stored, or do not belong there; nobody is named who would run it.
            TransientStorageError: The database could not be reached.
        """
        insist_id("task", task_id)
        check_text("reason", reason)
        check_payload(f"result of task {task_id}", result)
        if agent is not None:
            insist_name(agent)
        aware(now)
        if result is not None and state in TASK.states() and state not in (TaskState.COMPLETED, TaskState.FAILED):
            raise InputError(f"task {task_id} gets a result and is to be {state}, expected completed or failed")
        if state == TaskState.RUNNING and agent is None:
            raise InputError(f"task {task_id} is to run, expected the agent that begins with it: name it or claim")

        def work(session: Session) -> Task:
            # Whoever begins to wait after this look is counted all the same; it is only not locked in the order of ids.
            waiting = dependent_ids(session, task_id) if state == TaskState.COMPLETED else []
            if state == TaskState.PENDING:
                _insist_workflow_open(session, task_id)
            task = lock_task(session, task_id, waiting)
            check_version(task_title(task), task.version, version)
            if lease is not None:
                claims.insist_lease(task, lease, now)
            TASK.check(task_title(task), task.state, state)
            if state == TaskState.RUNNING and agent is not None:
                return claims.assign(session, task, agent, None, now, reason=reason)
            agent_id = None if agent is None else agent_ids(session, [agent])[agent]
            if agent is not None and state != TaskState.CANCELLED and task.state == TaskState.RUNNING:
                claims.insist_holder(session, task, agent)
            changes = {} if result is None else {"result": result}
            [moved] = move(session, [task], state, now=now, reason=reason, agent_id=agent_id, **changes)
            if state == TaskState.COMPLETED:
                unblock(session, task_id)
            return moved

        return self._write("changing a task", work)

    def retry(
        self,
        task_id: int,
        *,
        now: datetime,
        reason: str = "",
        priority: int | None = None,
        due_at: datetime | None = None,
    ) -> Task:
        """
        Have a task that failed tried again, with one more attempt if it has none left.

        Steps that are completed stay so, the others begin anew.

        Args:
            priority: From now on; ``None`` leaves it.
            due_at: Not before this moment; ``None`` is at once.

        Raises:
            UnknownName: There is no such task.
            IllegalTransition: It has not failed.
            StorageError: Its workflow has ended for good.
            InputError: *priority*, *due_at* or *reason* cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        insist_id("task", task_id)
        check_text("reason", reason)
        if priority is not None:
            check_integer(f"priority of task {task_id}", priority)
        changes: dict[str, Any] = {"due_at": None if due_at is None else aware(due_at, f"due_at of task {task_id}")}
        if priority is not None:
            changes["priority"] = priority
        aware(now)

        def work(session: Session) -> Task:
            _insist_workflow_open(session, task_id)
            task = lock_task(session, task_id)
            if task.state != TaskState.FAILED:
                allowed = tuple(sorted(TASK.ways[task.state] - {TaskState.PENDING}))
                raise IllegalTransition(task_title(task), task.state, TaskState.PENDING, allowed=allowed)
            return move(session, [task], TaskState.PENDING, now=now, reason=reason, **changes)[0]

        return self._write("trying a task again", work)

    # ---------------------------------------------------------------- steps

    def add_subtask(self, task_id: int, name: str, now: datetime) -> SubTask:
        """
        Add a step behind those that the task has.

        Raises:
            UnknownName: There is no such task.
            DuplicateName: It has a step of that name.
            StorageError: It is completed or cancelled.
            InputError: *name* cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        check_name("name of a subtask", name)
        aware(now)
        return self._write("adding a subtask", lambda session: steps.add(session, task_id, name, now))

    def set_subtask_state(
        self, task_id: int, step: str | int, state: str, *, now: datetime, result: Any = None
    ) -> SubTask:
        """
        Take a step of the task, by its name or its position from 1 on, to *state*.

        Raises:
            UnknownName: There is no such task, or it has no such step.
            IllegalTransition: The step cannot go there from where it is.
            StorageError: The task is completed or cancelled.
            InputError: *result* cannot be stored, or does not belong there.
            TransientStorageError: The database could not be reached.
        """
        insist_id("task", task_id)
        check_payload(f"result of a subtask of task {task_id}", result)
        aware(now)
        return self._write(
            "changing a subtask", lambda session: steps.set_state(session, task_id, step, state, now, result)
        )

    def subtasks(self, task_id: int) -> Rows[SubTask]:
        """
        Return the steps of the task in their order.

        Raises:
            UnknownName: There is no such task.
            TransientStorageError: The database could not be reached.
        """
        return self._of_task(task_id, select(SubTask).where(SubTask.task_id == task_id).order_by(SubTask.position))

    # ---------------------------------------------------------------- dependencies

    def add_dependency(self, task_id: int, depends_on: int | str) -> Task:
        """
        Have the task wait until another one is completed; doing so twice is harmless.

        Args:
            depends_on: Id, or the name of a task of the same workflow.

        Raises:
            UnknownName: There is no such task.
            DependencyCycle: The other one waits for this one; the message names the circle.
            StorageError: The task is neither pending nor failed, or its workflow has ended for good.
            InputError: It is named and there is no workflow to look in.
            TransientStorageError: The database could not be reached.
        """
        insist_task(depends_on)
        return self._write("adding a dependency", lambda session: dependencies.add(session, task_id, depends_on))

    def dependencies(self, task_id: int) -> Tasks:
        """
        Return the tasks that this one depends on, by id.

        Raises:
            UnknownName: There is no such task.
            TransientStorageError: The database could not be reached.
        """
        wanted = select(Task).join(TaskDependency, TaskDependency.depends_on == Task.id)
        return self._of_task(task_id, wanted.where(TaskDependency.task_id == task_id).order_by(Task.id))

    def dependents(self, task_id: int) -> Tasks:
        """
        Return the tasks that depend on this one, by id.

        Raises:
            UnknownName: There is no such task.
            TransientStorageError: The database could not be reached.
        """
        wanted = select(Task).join(TaskDependency, TaskDependency.task_id == Task.id)
        return self._of_task(task_id, wanted.where(TaskDependency.depends_on == task_id).order_by(Task.id))

    # ---------------------------------------------------------------- inside

    def _page(
        self,
        workflow: WorkflowRef | None,
        limit: int,
        after: int | None,
        *,
        type: str | None,
        agent: str | None = None,
        **asked: object,
    ) -> Page[Task]:
        check_limit(limit)
        check_filter("type", type)
        if workflow is not None:
            insist_workflow(workflow)
        if agent is not None:
            insist_name(agent)
        given = {
            "workflow" if isinstance(workflow, str) else "workflow_id": workflow,
            "type": type,
            "agent": agent,
            **asked,
        }
        parameters = {name: value for name, value in given.items() if value is not None}
        statement = task_pages.page(frozenset(parameters))
        start = {"after": check_after(after), "rows": limit + 1}

        def work(session: Session) -> Page[Task]:
            rows = session.scalars(statement, parameters | start).all()
            if not rows:
                # Nothing to show, or nowhere to look: most calls need no second round trip to tell.
                if workflow is not None:
                    find_workflow(session, workflow)
                if agent is not None:
                    agent_ids(session, [agent])
            return page_of(rows, limit, lambda task: task.id)

        return self._read("reading tasks", work)

    def _of_task(self, task_id: int, wanted: Select[Row]) -> Rows[Row]:
        def work(session: Session) -> Rows[Row]:
            find_task(session, task_id)
            return list(session.scalars(wanted))

        return self._read("reading a task", work)


def _insist_workflow_open(session: Session, task_id: int) -> None:
    """Insist that the task's workflow may still get work, and have it stay so; before the task itself is locked."""
    workflow_id = find_task(session, task_id).workflow_id
    if workflow_id is None:
        return
    try:
        [workflow] = keep_workflows(session, [workflow_id]).values()
    except UnknownName:
        # It has just gone, and the task with it.
        raise unknown_id("task", task_id) from None
    insist_open(workflow)
