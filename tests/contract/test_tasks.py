"""
Tasks of a workflow and without one: how they are made, found and listed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event

from storage.errors import (
    DependencyCycle,
    DuplicateName,
    FleetpulseError,
    InputError,
    StorageError,
    UnknownName,
)
from storage.payloads import MAX_PAYLOAD_BYTES
from storage.repositories import TaskSpec
from storage.store import Capability, Store
from tests.batches import NOON
from tests.work import MINUTE, Desk, lies

pytestmark = pytest.mark.each_kind


@pytest.fixture
def desk(store: Store) -> Desk:
    """Return a desk on a fresh database."""
    return Desk(store)


def rows(store: Store, *tables: str) -> int:
    """Return how many rows there are in *tables*."""
    return sum(int(str(store.query(f"SELECT count(*) FROM {table}").rows[0][0])) for table in tables)  # noqa: S608


# ---------------------------------------------------------------- making


def test_create_stores_every_field(desk: Desk) -> None:
    """A task comes back as it was described, pending and untried, and its first event says so."""
    flow = desk.workflows.create("nightly", now=desk.now)
    first = desk.task("collect", workflow="nightly")
    due = desk.now + MINUTE
    spec = TaskSpec(
        type="llm",
        name="summarise",
        workflow=flow.id,
        payload={"text": "é\n", "numbers": [1, 2.5, None, True, -(2**60)]},
        priority=-7,
        max_attempts=5,
        due_at=due,
        depends_on=(first.id,),
        subtasks=("read", "write"),
    )
    made = desk.tasks.create(spec, desk.now)
    found = desk.tasks.get(made.id)

    for task in (made, found):
        assert (task.workflow_id, task.type, task.name, task.state) == (flow.id, "llm", "summarise", "pending")
        assert task.payload == spec.payload
        assert (task.priority, task.max_attempts, task.attempts, task.due_at) == (-7, 5, 0, due)
        assert (task.blocked_by, task.version, task.created_at) == (1, 1, desk.now)
        assert (task.result, task.agent_id, task.lease, task.lease_until, task.started_at, task.finished_at) == (
            (None,) * 6
        )
    [event] = desk.tasks.history(made.id)
    assert (event.ts, event.from_state, event.to_state, event.agent_id, event.reason) == (
        desk.now, None, "pending", None, "",
    )  # fmt: skip
    steps = desk.tasks.subtasks(made.id)
    assert [(step.position, step.name, step.state) for step in steps] == [
        (1, "read", "pending"),
        (2, "write", "pending"),
    ]
    assert [task.id for task in desk.tasks.dependencies(made.id)] == [first.id]
    assert [task.id for task in desk.tasks.dependents(first.id)] == [made.id]


def test_defaults(desk: Desk) -> None:
    """A task needs no more than a type; without a payload it has an empty one."""
    task = desk.tasks.create(TaskSpec(type="work"), desk.now)

    assert (task.workflow_id, task.name, task.payload, task.priority, task.max_attempts) == (None, None, {}, 100, 3)


def test_payload_is_any_json_value(desk: Desk) -> None:
    """What is read is what was written, whatever kind of value it is; as a payload and as a result."""
    values: list[Any] = [[], "", 0, False, "text", [{"a": [[]]}], 1.5e-7, "\u2028😀\\u0000"]
    for value in values:
        task = desk.task(payload=value)
        desk.move(task, "running")
        desk.tasks.set_state(task.id, "completed", now=desk.now, result=value)
        found = desk.tasks.get(task.id)

        assert (found.payload, found.result) == (value, value)
        assert (type(found.payload), type(found.result)) == (type(value), type(value))


def test_create_many_keeps_the_order(desk: Desk) -> None:
    """Tasks come back in the order in which they were described, and may depend on earlier and on later ones."""
    desk.workflows.create("w", now=desk.now)
    old = desk.task("old", workflow="w")
    names = ["c", "a", "b", "d"]
    waits: dict[str, tuple[int | str, ...]] = {"c": ("b", "old"), "a": (), "b": ("a", "a"), "d": (old.id, "c", "old")}
    specs = [TaskSpec(type="t", name=name, workflow="w", depends_on=waits[name]) for name in names]
    made = desk.tasks.create_many(specs, desk.now)

    assert [task.name for task in made] == names
    assert [task.blocked_by for task in made] == [2, 0, 1, 2]
    assert sorted(task.id for task in made) == [task.id for task in made]
    assert [[each.name for each in desk.tasks.dependencies(task.id)] for task in made] == [
        ["old", "b"], [], ["a"], ["old", "c"],
    ]  # fmt: skip
    assert lies(desk.store) == {}


def test_create_many_of_none(desk: Desk) -> None:
    """No tasks are made of no descriptions."""
    assert desk.tasks.create_many([], desk.now) == []


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_create_many_takes_few_statements(desk: Desk) -> None:
    """Fifty tasks with steps and dependencies are a handful of statements, where each is a round trip to a server."""
    desk.workflows.create("w", now=desk.now)
    specs = [
        TaskSpec(type="t", name=f"t{n}", workflow="w", subtasks=("a", "b"), depends_on=(f"t{n - 1}",) if n else ())
        for n in range(50)
    ]
    said: list[str] = []

    def listen(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        said.append(statement)

    event.listen(desk.store.engine, "before_cursor_execute", listen)
    try:
        desk.tasks.create_many(specs, desk.now)
    finally:
        event.remove(desk.store.engine, "before_cursor_execute", listen)

    assert len(said) <= 9
    assert rows(desk.store, "tasks", "task_events", "subtasks", "task_dependencies") == 50 + 50 + 100 + 49


def test_create_many_of_thousands(desk: Desk) -> None:
    """A call that takes many statements' worth of rows makes each row once."""
    desk.workflows.create("w", now=desk.now)
    n = 1_100
    specs = [
        TaskSpec(type="t", name=f"t{k}", workflow="w", subtasks=("a",), depends_on=(f"t{(k * 7) % k}",) if k else ())
        for k in range(n)
    ]
    made = desk.tasks.create_many(specs, desk.now)

    assert [task.name for task in made] == [spec.name for spec in specs]
    assert rows(desk.store, "tasks", "task_events", "subtasks", "task_dependencies") == 4 * n - 1
    assert lies(desk.store) == {}


GOOD = TaskSpec(type="t", name="good", workflow="w", subtasks=("a",))
BAD: dict[str, tuple[TaskSpec, type[FleetpulseError], str]] = {
    "name that is there": (replace(GOOD, name="old"), DuplicateName, 'task "old" is there already: in workflow "w"'),
    "name twice": (replace(GOOD), DuplicateName, 'task "good" is there already: in workflow "w" it stands twice'),
    "no such workflow": (
        replace(GOOD, name="x", workflow="ww"),
        UnknownName,
        'there is no workflow "ww": did you mean w',
    ),
    "no such workflow id": (
        replace(GOOD, name="x", workflow=99),
        UnknownName,
        "there is no workflow 99: expected the id",
    ),
    "workflow id that is none": (replace(GOOD, name="x", workflow=2**63), UnknownName, "there is no workflow 92233720"),
    "depends on no name": (
        replace(GOOD, name="x", depends_on=("goood",)),
        UnknownName,
        'no task "goood": did you mean good',
    ),
    "depends on no id": (
        replace(GOOD, name="x", depends_on=(99,)),
        UnknownName,
        "there is no task 99: expected the id",
    ),
    "depends on itself": (replace(GOOD, name="x", depends_on=("x",)), DependencyCycle, 'task "x" waits for task "x"'),
    "name without workflow": (
        TaskSpec(type="t", depends_on=("old",)),
        InputError,
        'depends on "old" and has no workflow',
    ),
    "text for several": (replace(GOOD, name="x", depends_on="old"), InputError, 'is "old", expected several'),
    "empty name": (replace(GOOD, name=""), InputError, "name of a task is '', expected 1 to 200 characters"),
    "long name": (replace(GOOD, name="x" * 201), InputError, "name of a task is 'xxx"),
    "name with line break": (replace(GOOD, name="a\nb"), InputError, r"name of a task is 'a\\nb'"),
    "type with space": (replace(GOOD, name="x", type="t "), InputError, "type of a task is 't '"),
    "bad subtask": (replace(GOOD, name="x", subtasks=("a", "\0")), InputError, 'name of a subtask of task "x" is'),
    "subtask twice": (replace(GOOD, name="x", subtasks=("a", "b", "a")), DuplicateName, 'subtask "a" is there already'),
    "priority": (replace(GOOD, name="x", priority=2**31), InputError, 'priority of task "x" is 2147483648, expected'),
    "no attempts": (replace(GOOD, name="x", max_attempts=0), InputError, 'max_attempts of task "x" is 0, expected'),
    "payload not JSON": (
        replace(GOOD, name="x", payload={"a": {1}}),
        InputError,
        'payload of task "x" at a is of type set',
    ),
    "payload not finite": (replace(GOOD, name="x", payload=[float("inf")]), InputError, "cannot be stored"),
    "naive moment": (replace(GOOD, name="x", due_at=NOON.replace(tzinfo=None)), StorageError, "has no time zone"),
}


def test_create_many_does_all_or_nothing(desk: Desk) -> None:
    """One task that cannot be made keeps all others from being made; the message says which one and why."""
    desk.workflows.create("w", now=desk.now)
    desk.task("old", workflow="w")
    before = rows(desk.store, "tasks", "task_events", "subtasks", "task_dependencies")

    for what, (bad, error, message) in BAD.items():
        for specs in ([GOOD, bad], [bad, GOOD]):
            with pytest.raises(error, match=message):
                desk.tasks.create_many(specs, desk.now)
            assert rows(desk.store, "tasks", "task_events", "subtasks", "task_dependencies") == before, what


def test_create_many_has_a_limit(desk: Desk) -> None:
    """More than a transaction does within seconds is refused."""
    with pytest.raises(InputError, match="10,001 tasks are too many for one call, expected at most 10,000"):
        desk.tasks.create_many([TaskSpec(type="t")] * 10_001, desk.now)


def test_payload_at_the_limit(desk: Desk) -> None:
    """A payload of a million bytes is kept, and one byte more is refused."""
    text = "x" * (MAX_PAYLOAD_BYTES - 2)
    task = desk.task(payload=text)

    assert desk.tasks.get(task.id).payload == text
    with pytest.raises(InputError, match="has 1,000,001 bytes as JSON, expected at most 1,000,000"):
        desk.task(payload=text + "x")


def test_same_name_in_two_workflows(desk: Desk) -> None:
    """Names are unique within a workflow; tasks without one may share names."""
    for name in ("v", "w"):
        desk.workflows.create(name, now=desk.now)
        desk.task("same", workflow=name)
    tasks = [desk.task("same"), desk.task("same")]

    assert len({task.id for task in tasks}) == 2
    with pytest.raises(DuplicateName):
        desk.task("same", workflow="v")


def test_ended_workflow_gets_no_work(desk: Desk) -> None:
    """Nothing is made in, added to or tried again in a workflow that has ended for good; in one that failed it is."""
    for state in ("completed", "cancelled", "failed"):
        desk.workflows.create(state, now=desk.now)
        failed = desk.in_state("failed", name="failed", workflow=state)
        other = desk.in_state("failed", name="other", workflow=state)
        desk.workflows.set_state(state, "running", now=desk.now)
        desk.workflows.set_state(state, state, now=desk.now)
        tries: list[Callable[[], object]] = [
            partial(desk.task, "new", workflow=state),
            partial(desk.tasks.retry, failed.id, now=desk.now),
            partial(desk.tasks.set_state, other.id, "pending", now=desk.now),
            partial(desk.tasks.add_dependency, failed.id, other.id),
        ]
        for each in tries:
            if state == "failed":
                each()
                continue
            with pytest.raises(StorageError, match=rf"\({state}\) is {state}, expected one that has not ended"):
                each()

    assert lies(desk.store) == {}


# ---------------------------------------------------------------- reading


def test_unknown_task(desk: Desk) -> None:
    """Whatever is asked of a task that there is none of says so."""
    desk.task()
    lease = UUID(int=1)
    numbers: list[Any] = [99, 0, -1, 2**63, True, "1"]
    for number in numbers:
        asked: list[Callable[[], object]] = [
            partial(desk.tasks.get, number),
            partial(desk.tasks.history, number),
            partial(desk.tasks.assignments, number),
            partial(desk.tasks.subtasks, number),
            partial(desk.tasks.dependencies, number),
            partial(desk.tasks.dependents, number),
            partial(desk.tasks.assign, number, "ann", lease=None, now=desk.now),
            partial(desk.tasks.extend_lease, number, lease, MINUTE, desk.now),
            partial(desk.tasks.set_state, number, "cancelled", now=desk.now),
            partial(desk.tasks.set_state, number, "completed", now=desk.now),
            partial(desk.tasks.set_state, number, "pending", now=desk.now),
            partial(desk.tasks.retry, number, now=desk.now),
            partial(desk.tasks.add_subtask, number, "s", desk.now),
            partial(desk.tasks.set_subtask_state, number, 1, "running", now=desk.now),
            partial(desk.tasks.add_dependency, number, 1),
        ]
        for each in asked:
            with pytest.raises(UnknownName, match="there is no task"):
                each()


def test_pages_and_filters(desk: Desk) -> None:
    """Pages follow each other without a gap; filters add up."""
    desk.workflows.create("w", now=desk.now)
    made = desk.tasks.create_many(
        [TaskSpec(type="even" if n % 2 == 0 else "odd", workflow="w" if n < 6 else None) for n in range(10)], desk.now
    )
    ids = [task.id for task in made]
    desk.move(made[1], "running", agent="bob")
    desk.move(made[2], "running", "completed")
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        page = desk.tasks.list(limit=4, after=after)
        seen.extend(task.id for task in page)
        after = page.after

    assert seen == ids
    assert [task.id for task in desk.tasks.list(workflow="w")] == ids[:6]
    assert desk.tasks.list(workflow="w", limit=6).after is None
    assert desk.tasks.list(workflow="w", limit=5).after == ids[4]
    assert [task.id for task in desk.tasks.list(workflow=made[0].workflow_id, type="odd", state="pending")] == [
        ids[3], ids[5],
    ]  # fmt: skip
    assert [task.id for task in desk.tasks.list(agent="ann")] == [ids[2]]
    assert [task.id for task in desk.tasks.list(agent="bob", state="running")] == [ids[1]]
    assert list(desk.tasks.list(type="nothing")) == []


def test_lists_of_what_there_is_none_of(desk: Desk) -> None:
    """A filter that can match nothing is a mistake, and so is a page of no size."""
    desk.workflows.create("nightly-1", now=desk.now)

    with pytest.raises(UnknownName, match='there is no workflow "nightly-2": did you mean nightly-1'):
        desk.tasks.list(workflow="nightly-2")
    with pytest.raises(UnknownName, match='there is no agent "bab": did you mean bob'):
        desk.tasks.list(agent="bab")
    with pytest.raises(InputError, match='state is "done", expected one of pending, running'):
        desk.tasks.list(state="done")
    for limit in (0, 10_001):
        with pytest.raises(InputError, match=f"limit is {limit}, expected 1 to 10000"):
            desk.tasks.list(limit=limit)


def test_failed_tasks(desk: Desk) -> None:
    """Failed tasks are found by workflow, type and since when."""
    desk.workflows.create("w", now=desk.now)
    first = desk.in_state("failed", workflow="w")
    desk.wait()
    second = desk.in_state("failed", type="other")
    desk.in_state("cancelled")

    assert [task.id for task in desk.tasks.failed()] == [first.id, second.id]
    assert [task.id for task in desk.tasks.failed(workflow="w")] == [first.id]
    assert [task.id for task in desk.tasks.failed(type="other")] == [second.id]
    assert [task.id for task in desk.tasks.failed(since=desk.now)] == [second.id]
    assert [task.id for task in desk.tasks.failed(since=desk.now + timedelta(microseconds=1))] == []
    assert desk.tasks.failed(limit=1).after == first.id
    assert [task.id for task in desk.tasks.failed(limit=1, after=first.id)] == [second.id]


def test_values_are_detached(desk: Desk, store: Store) -> None:
    """What is returned are plain values: changing them changes no row, and all of them can be read."""
    task = desk.task("x")
    task.state = "completed"
    found = desk.tasks.get(task.id)

    assert found.state == "pending"
    assert all(getattr(found, column) is not Ellipsis for column in found.__table__.columns.keys())  # noqa: SIM118
    assert isinstance(found.created_at, datetime)
