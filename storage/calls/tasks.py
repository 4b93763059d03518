"""
Calls about tasks: made, given out, finished, tried again; their steps and dependencies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from storage.clock import Clock
from storage.repositories.base import PAGE_SIZE, Page
from storage.repositories.claims import Recovered
from storage.repositories.references import WorkflowRef, insist_workflow
from storage.repositories.tasks import TaskRepository, TaskSpec
from storage.work_models import SubTask, Task, TaskAssignment, TaskEvent

#: How long a worker has a task before it is taken for dead, where nothing else was said.
LEASE = timedelta(minutes=5)


class TaskCalls:
    """Calls about tasks, which are named by their id."""

    _tasks: TaskRepository
    _clock: Clock

    # ---------------------------------------------------------------- made and found

    def create_task(
        self,
        type: str,
        *,
        name: str | None = None,
        workflow: WorkflowRef | None = None,
        payload: Any = None,
        priority: int = 100,
        max_attempts: int = 3,
        due_at: datetime | None = None,
        depends_on: Sequence[int | str] = (),
        subtasks: Sequence[str] = (),
    ) -> Task:
        """
        Make a task, which is pending until an agent gets it.

        Args:
            type: What workers ask for: ``summarise``.
            name: Unique within its workflow; needs none.
            workflow: What it is a part of, by name or id.
            payload: A JSON value; ``None`` is an empty object.
            priority: Lower comes first.
            max_attempts: How often it is given out before a lost lease makes it fail.
            due_at: Not given out before this moment.
            depends_on: Tasks that have to be completed before, by id, or by name within the workflow.
            subtasks: Names of its steps, in their order.

        Raises:
            UnknownName: There is no such workflow, or no such task to depend on.
            InputError: Something of the task cannot be stored.
            DuplicateName: The workflow has a task of that name.
            StorageError: The workflow has ended.
            TransientStorageError: The database could not be reached.
        """
        spec = TaskSpec(
            type=type,
            name=name,
            workflow=workflow,
            payload=payload,
            priority=priority,
            max_attempts=max_attempts,
            due_at=due_at,
            depends_on=depends_on,
            subtasks=subtasks,
        )
        return self._tasks.create(spec, self._clock())

    def create_tasks(self, specs: Iterable[TaskSpec]) -> Sequence[Task]:
        """
        Make tasks in one transaction: all of them, or none. They may depend on each other, in whatever order.

        Returns:
            The tasks in the order of *specs*.

        Raises:
            UnknownName: There is no such workflow, or no such task to depend on.
            InputError: Something of a task cannot be stored.
            DuplicateName: A name stands twice in its workflow.
            DependencyCycle: Some of them would wait for each other; the message names the circle.
            StorageError: A workflow has ended.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.create_many(specs, self._clock())

    def get_task(self, task_id: int) -> Task:
        """
        Return a task.

        Raises:
            UnknownName: There is none.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.get(task_id)

    def get_tasks(
        self,
        *,
        status: str | None = None,
        type: str | None = None,
        agent: str | None = None,
        limit: int = PAGE_SIZE,
        after: int | None = None,
    ) -> Page[Task]:
        """
        Return tasks of all workflows and of none, in the order in which they were made.

        Args:
            status: ``pending``, ``running``, ``completed``, ``failed`` or ``cancelled``.
            agent: Only those that it works on, or was the last to.
            limit: Size of a page, 1 to 10,000.
            after: Where the page before ends: its ``after``; ``None`` is the start.

        Raises:
            UnknownName: There is no such agent.
            InputError: There is no such status, *type* cannot be one, or *limit* is not the size of a page.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.list(state=status, type=type, agent=agent, limit=limit, after=after)

    def get_workflow_tasks(
        self,
        workflow: WorkflowRef,
        *,
        status: str | None = None,
        type: str | None = None,
        agent: str | None = None,
        limit: int = PAGE_SIZE,
        after: int | None = None,
    ) -> Page[Task]:
        """
        Return the tasks of a workflow, in the order in which they were made; arguments as of ``get_tasks``.

        Raises:
            UnknownName: There is no such workflow or agent.
            InputError: There is no such status, *type* cannot be one, or *limit* is not the size of a page.
            TransientStorageError: The database could not be reached.
        """
        insist_workflow(workflow)
        return self._tasks.list(workflow=workflow, state=status, type=type, agent=agent, limit=limit, after=after)

    def get_failed_tasks(
        self,
        *,
        workflow: WorkflowRef | None = None,
        type: str | None = None,
        since: datetime | None = None,
        limit: int = PAGE_SIZE,
        after: int | None = None,
    ) -> Page[Task]:
        """
        Return tasks that have failed and have not been tried again, in the order in which they were made.

        Args:
            workflow: Only those of it, by name or id.
            since: Only those that failed at this moment or later.
            limit: Size of a page, 1 to 10,000.
            after: Where the page before ends: its ``after``; ``None`` is the start.

        Raises:
            UnknownName: There is no such workflow.
            InputError: *type* cannot be one, *since* has no time zone, or *limit* is not the size of a page.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.failed(workflow=workflow, type=type, since=since, limit=limit, after=after)

    def task_history(self, task_id: int) -> Sequence[TaskEvent]:
        """
        Return what became of a task, oldest first: every state with its time, its agent and its reason.

        Raises:
            UnknownName: There is no such task.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.history(task_id)

    def task_assignments(self, task_id: int) -> Sequence[TaskAssignment]:
        """
        Return who has tried a task, from when to when and with what outcome, the first attempt first.

        Raises:
            UnknownName: There is no such task.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.assignments(task_id)

    # ---------------------------------------------------------------- given out

    def ready_tasks(self, types: Sequence[str] | None = None, *, limit: int = PAGE_SIZE) -> Sequence[Task]:
        """
        Return tasks that could be given out now, in the order in which they will be.

        Args:
            types: Only those; ``None`` is all.

        Raises:
            InputError: *types* is no list, or *limit* is not the size of a page.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.ready(types, limit, now=self._clock())

    def claim_next_task(
        self, agent: str, types: Sequence[str] | None = None, *, lease: timedelta = LEASE
    ) -> Task | None:
        """
        Give an agent the next task that is ready, and no other agent the same one; ``None`` where there is none.

        The task is the agent's until ``task.lease_until``. It passes ``task.lease`` to ``extend_lease`` while it works,
        and to ``update_task_status`` when it has finished. When it does neither in time, somebody else gets the task.

        Args:
            types: Only those; ``None`` is what the agent is capable of, or all where it names no capability.
            lease: For how long it has the task.

        Raises:
            UnknownName: There is no such agent.
            InputError: *types* is no list, or *lease* is none.
            StorageError: The agent is retired.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.claim(agent, types, lease=lease, now=self._clock())

    def assign_task(self, task_id: int, agent: str, *, lease: timedelta | None = LEASE) -> Task:
        """
        Give an agent one certain task, which it begins with.

        Args:
            lease: For how long it has the task; ``None`` is until somebody says otherwise.

        Raises:
            UnknownName: There is no such task or agent.
            IllegalTransition: The task is not pending.
            InputError: *lease* is none.
            StorageError: The task waits for others, or the agent is retired.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.assign(task_id, agent, lease=lease, now=self._clock())

    def extend_lease(self, task_id: int, lease: UUID, duration: timedelta = LEASE) -> Task:
        """
        Keep a task for longer: until *duration* from now.

        Args:
            lease: ``task.lease``, as the claim answered it.

        Raises:
            UnknownName: There is no such task.
            LeaseLost: The task is somebody else's, or nobody's, by now.
            InputError: *duration* is none.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.extend_lease(task_id, lease, duration, self._clock())

    def recover_tasks(self, *, limit: int = PAGE_SIZE) -> Recovered:
        """
        Take away the tasks whose lease is over: pending again, or failed where no attempt is left.

        Every ``claim_next_task`` does so first; this is for fleets whose workers are all gone.

        Raises:
            InputError: *limit* is not the size of a page.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.recover(self._clock(), limit)

    # ---------------------------------------------------------------- finished

    def update_task_status(
        self,
        task_id: int,
        status: str,
        *,
        result: Any = None,
        reason: str = "",
        agent: str | None = None,
        lease: UUID | None = None,
        version: int | None = None,
    ) -> Task:
        """
        Say what a task is now.

        Args:
            status: ``running``, ``completed``, ``failed``, ``cancelled``, or ``pending`` to give it back.
            result: What came of it, a JSON value.
            reason: Why, above all of a failure.
            agent: Who does it; needed to have an agent begin.
            lease: ``task.lease``, as the claim answered it: a worker passes it, a person does without, and then nobody's
                lease is asked about.
            version: The version that the caller has read; ``None`` takes the task as it is.

        Raises:
            UnknownName: There is no such task or agent.
            IllegalTransition: It cannot go there from where it is; nothing was changed.
            LeaseLost: The task is somebody else's, or nobody's, by now; nothing was changed.
            StaleVersion: Somebody else has changed it since it was read.
            InputError: Result or reason cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.set_state(
            task_id,
            status,
            now=self._clock(),
            reason=reason,
            result=result,
            agent=agent,
            lease=lease,
            version=version,
        )

    def retry_task(
        self, task_id: int, *, reason: str = "", priority: int | None = None, due_at: datetime | None = None
    ) -> Task:
        """
        Have a failed task tried once more, even where no attempt was left.

        Args:
            priority: Another one than before.
            due_at: Not before this moment.

        Raises:
            UnknownName: There is no such task.
            IllegalTransition: It has not failed.
            InputError: Reason or priority cannot be stored, or *due_at* has no time zone.
            StorageError: Its workflow has ended.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.retry(task_id, now=self._clock(), reason=reason, priority=priority, due_at=due_at)

    # ---------------------------------------------------------------- steps and dependencies

    def add_subtask(self, task_id: int, name: str) -> SubTask:
        """
        Add a step to a task, behind those that it has.

        Raises:
            UnknownName: There is no such task.
            DuplicateName: It has a step of that name.
            InputError: The name cannot be stored.
            StorageError: The task has ended.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.add_subtask(task_id, name, self._clock())

    def update_subtask_status(self, task_id: int, step: str | int, status: str, *, result: Any = None) -> SubTask:
        """
        Say what a step of a task is now.

        Args:
            step: By name, or by position from 1 on.
            result: What came of it, a JSON value.

        Raises:
            UnknownName: There is no such task or step.
            IllegalTransition: It cannot go there from where it is; nothing was changed.
            InputError: The result cannot be stored.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.set_subtask_state(task_id, step, status, now=self._clock(), result=result)

    def get_subtasks(self, task_id: int) -> Sequence[SubTask]:
        """
        Return the steps of a task, in their order.

        Raises:
            UnknownName: There is no such task.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.subtasks(task_id)

    def add_dependency(self, task_id: int, depends_on: int | str) -> Task:
        """
        Have a task wait until another one is completed; twice is harmless.

        Args:
            depends_on: The other one, by id, or by name within the workflow.

        Raises:
            UnknownName: There is no such task.
            DependencyCycle: It would have to wait for itself; the message names the circle.
            StorageError: The task has begun, or ended.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.add_dependency(task_id, depends_on)

    def get_dependencies(self, task_id: int) -> Sequence[Task]:
        """
        Return the tasks that a task waits for, or has waited for.

        Raises:
            UnknownName: There is no such task.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.dependencies(task_id)

    def get_dependents(self, task_id: int) -> Sequence[Task]:
        """
        Return the tasks that wait for a task, or have waited for it.

        Raises:
            UnknownName: There is no such task.
            TransientStorageError: The database could not be reached.
        """
        return self._tasks.dependents(task_id)
