"""
Workflows: what state may follow which, and what becomes of their tasks when they are cancelled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from storage.errors import (
    DuplicateName,
    IllegalTransition,
    InputError,
    LeaseLost,
    StaleVersion,
    StorageError,
    UnknownName,
)
from storage.repositories import TaskSpec, WorkflowSpec
from storage.store import Store
from storage.work_models import Workflow
from tests.work import MINUTE, SECOND, Desk, lies

pytestmark = pytest.mark.each_kind

STATES = ("pending", "running", "completed", "failed", "cancelled")
#: What may follow what.
LEGAL = {
    ("pending", "running"),
    ("pending", "cancelled"),
    ("running", "completed"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("failed", "running"),
    ("failed", "cancelled"),
}


@pytest.fixture
def desk(store: Store) -> Desk:
    """Return a desk on a fresh database."""
    return Desk(store)


def in_state(desk: Desk, name: str, state: str) -> Workflow:
    """Make a workflow and take it to *state*."""
    flow = desk.workflows.create(name, now=desk.now)
    way = {"pending": (), "running": ("running",), "cancelled": ("cancelled",)}
    for each in way.get(state, ("running", state)):
        flow = desk.workflows.set_state(name, each, now=desk.now)
    return flow


# ---------------------------------------------------------------- making and reading


def test_create_stores_every_field(desk: Desk) -> None:
    """A workflow comes back, by its id and by its name, as it was described."""
    made = desk.workflows.create("nightly", type="report", payload={"pages": [1, "é"]}, now=desk.now)

    for flow in (made, desk.workflows.get(made.id), desk.workflows.get("nightly")):
        assert (flow.id, flow.name, flow.type, flow.state) == (made.id, "nightly", "report", "pending")
        assert (flow.payload, flow.reason, flow.version) == ({"pages": [1, "é"]}, "", 1)
        assert (flow.created_at, flow.started_at, flow.finished_at) == (desk.now, None, None)
    [event] = desk.workflows.history("nightly")
    assert (event.from_state, event.to_state, event.ts) == (None, "pending", desk.now)
    assert desk.workflows.create("plain", now=desk.now).payload == {}


def test_create_many_does_all_or_nothing(desk: Desk) -> None:
    """Workflows are made in their order, or none of them."""
    made = desk.workflows.create_many([WorkflowSpec(name=name) for name in "cab"], desk.now)
    assert [flow.name for flow in made] == ["c", "a", "b"]

    bad: list[tuple[WorkflowSpec, type[Exception], str]] = [
        (WorkflowSpec(name="a"), DuplicateName, 'workflow "a" is there already: choose another name'),
        (WorkflowSpec(name="new"), DuplicateName, 'workflow "new" is there already: it stands twice'),
        (WorkflowSpec(name=""), InputError, "name of a workflow is '', expected 1 to 200 characters"),
        (WorkflowSpec(name="x", type=" "), InputError, "type of a workflow is ' ', expected"),
        (WorkflowSpec(name="x", payload=object()), InputError, 'payload of workflow "x" is of type object'),
    ]
    for spec, error, message in bad:
        with pytest.raises(error, match=message):
            desk.workflows.create_many([WorkflowSpec(name="new"), spec], desk.now)
        assert [flow.name for flow in desk.workflows.list()] == ["c", "a", "b"]
    assert desk.workflows.create_many([], desk.now) == []


def test_pages_and_filters(desk: Desk) -> None:
    """Pages follow each other without a gap; filters add up."""
    made = desk.workflows.create_many([WorkflowSpec(name=f"w{n}", type="xy"[n % 2]) for n in range(7)], desk.now)
    ids = [flow.id for flow in made]
    desk.workflows.set_state("w3", "running", now=desk.now)
    seen: list[int] = []
    after: int | None = 0
    while after is not None:
        page = desk.workflows.list(limit=3, after=after)
        seen.extend(flow.id for flow in page)
        after = page.after

    assert seen == ids
    assert [flow.name for flow in desk.workflows.list(type="y")] == ["w1", "w3", "w5"]
    assert [flow.name for flow in desk.workflows.list(type="y", state="running")] == ["w3"]
    with pytest.raises(InputError, match='state is "done", expected one of pending'):
        desk.workflows.list(state="done")
    with pytest.raises(InputError, match="limit is 0"):
        desk.workflows.list(limit=0)


def test_unknown_workflow(desk: Desk) -> None:
    """Whatever is asked of a workflow that there is none of says so, and names those that are called alike."""
    desk.workflows.create_many([WorkflowSpec(name=f"nightly-{n}") for n in range(3)], desk.now)
    refs: list[Any] = ["nightly-9", "mightly-1", 99, 0, 2**63, True, "", "\0", "\ud800"]
    for ref in refs:
        asked: list[Callable[[], object]] = [
            partial(desk.workflows.get, ref),
            partial(desk.workflows.history, ref),
            partial(desk.workflows.set_state, ref, "running", now=desk.now),
            partial(desk.workflows.cancel, ref, now=desk.now),
            partial(desk.task, "x", workflow=ref),
            partial(desk.tasks.list, workflow=ref),
        ]
        for each in asked:
            with pytest.raises(UnknownName, match="there is no workflow") as caught:
                each()
            if isinstance(ref, str) and "ightly" in ref:
                assert "did you mean" in str(caught.value)
                assert "nightly-1" in str(caught.value)


# ---------------------------------------------------------------- transitions


def test_every_transition(desk: Desk) -> None:
    """Each legal one is done and kept, each other one is refused and leaves the workflow as it was."""
    for old in STATES:
        for new in STATES:
            flow = in_state(desk, f"{old}-{new}", old)
            before = len(desk.workflows.history(flow.id))
            if (old, new) in LEGAL:
                moved = desk.workflows.set_state(flow.id, new, now=desk.wait(SECOND), reason="so")
                last = desk.workflows.history(flow.id)[-1]

                assert (moved.state, moved.version) == (new, flow.version + 1)
                assert (last.from_state, last.to_state, last.ts, last.reason) == (old, new, desk.now, "so")
                continue
            with pytest.raises(IllegalTransition) as caught:
                desk.workflows.set_state(flow.name, new, now=desk.now)
            allowed = " or ".join(sorted(follower for state, follower in LEGAL if state == old))
            expected = allowed or f"nothing, {old} is final"

            assert str(caught.value) == (
                f"workflow {flow.id} ({old}-{new}) cannot go from {old} to {new}, expected {expected}"
            )
            assert desk.workflows.get(flow.id).version == flow.version
            assert len(desk.workflows.history(flow.id)) == before
    assert lies(desk.store) == {}


def test_a_life(desk: Desk) -> None:
    """Times and reasons are those of the last change; a second run began when the first one did."""
    desk.workflows.create("w", now=desk.now)
    began = desk.wait()
    flow = desk.workflows.set_state("w", "running", now=began)
    assert (flow.started_at, flow.finished_at) == (began, None)
    flow = desk.workflows.set_state("w", "failed", now=desk.wait(), reason="no disk")
    assert (flow.finished_at, flow.reason) == (desk.now, "no disk")
    flow = desk.workflows.set_state("w", "running", now=desk.wait(), reason="more disk")
    assert (flow.started_at, flow.finished_at, flow.reason) == (began, None, "")
    flow = desk.workflows.set_state("w", "completed", now=began - MINUTE)
    assert (flow.finished_at, flow.version) == (began, 5)
    assert [event.reason for event in desk.workflows.history("w")] == ["", "", "no disk", "more disk", ""]


def test_version_that_was_read(desk: Desk) -> None:
    """Who has read an older version changes nothing."""
    desk.workflows.create("w", now=desk.now)
    desk.workflows.set_state("w", "running", now=desk.now, version=1)

    with pytest.raises(StaleVersion, match=r"\(w\) was changed meanwhile: found version 2, expected 1: read it again"):
        desk.workflows.set_state("w", "completed", now=desk.now, version=1)
    with pytest.raises(InputError, match="reason is of type int, expected text"):
        desk.workflows.set_state("w", "completed", now=desk.now, reason=1)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(StorageError, match="has no time zone"):
        desk.workflows.set_state("w", "completed", now=desk.now.replace(tzinfo=None))


# ---------------------------------------------------------------- cancelling


def test_cancel(desk: Desk) -> None:
    """What is left to do goes with the workflow: tasks, open tries, open steps; what has ended stays, and so do others."""
    desk.workflows.create("w", now=desk.now)
    made = {state: desk.in_state(state, workflow="w", subtasks=("a", "b")) for state in STATES}
    elsewhere = desk.task("elsewhere")
    waiting = desk.task("waiting", depends_on=(made["pending"].id,))
    leased = desk.task("leased", workflow="w")
    taken = desk.tasks.assign(leased.id, "bob", lease=MINUTE, now=desk.now)
    before = {state: len(desk.tasks.history(task.id)) for state, task in made.items()}
    cancelled = desk.workflows.cancel("w", now=desk.wait(SECOND), reason="no money")

    assert cancelled.tasks == tuple(sorted((made["pending"].id, made["running"].id, leased.id)))
    assert (cancelled.workflow.state, cancelled.workflow.reason) == ("cancelled", "no money")
    assert cancelled.workflow.finished_at == desk.now
    for state, task in made.items():
        found = desk.tasks.get(task.id)
        steps = {step.state for step in desk.tasks.subtasks(task.id)}
        if state in ("pending", "running"):
            last = desk.tasks.history(task.id)[-1]
            assert (found.state, found.reason) == ("cancelled", "workflow cancelled: no money")
            assert (last.from_state, last.reason, last.ts) == (state, "workflow cancelled: no money", desk.now)
            assert steps == {"cancelled"}
            continue
        assert found.state == state
        assert len(desk.tasks.history(task.id)) == before[state]
    [tried] = desk.tasks.assignments(leased.id)
    assert (tried.outcome, tried.ended_at) == ("cancelled", desk.now)
    with pytest.raises(LeaseLost, match="is cancelled, expected it to run"):
        desk.tasks.set_state(leased.id, "completed", now=desk.now, lease=taken.lease)
    assert [task.id for task in desk.tasks.ready(now=desk.now)] == [elsewhere.id]
    assert desk.tasks.get(waiting.id).blocked_by == 1
    with pytest.raises(IllegalTransition, match="from cancelled to cancelled, expected nothing, cancelled is final"):
        desk.workflows.cancel("w", now=desk.now)
    assert lies(desk.store) == {}


def test_cancelled_by_its_state(desk: Desk) -> None:
    """There is one way of being cancelled: tasks go with the workflow by whatever name it is called."""
    desk.workflows.create("w", now=desk.now)
    task = desk.task(workflow="w")
    desk.workflows.set_state("w", "cancelled", now=desk.now)

    assert desk.tasks.get(task.id).state == "cancelled"
    assert desk.tasks.get(task.id).reason == "workflow cancelled"


def test_cancel_thousands(desk: Desk) -> None:
    """More tasks than a statement lists are cancelled as well, each once."""
    desk.workflows.create("w", now=desk.now)
    made = desk.tasks.create_many([TaskSpec(type="t", workflow="w")] * 1_050, desk.now)

    assert desk.workflows.cancel("w", now=desk.now).tasks == tuple(task.id for task in made)
    assert lies(desk.store) == {}


def test_work_that_is_made_while_its_workflow_is_cancelled(desk: Desk) -> None:
    """Whoever comes first: no task is left that could be claimed."""
    for number in range(6):
        name = f"w{number}"
        desk.workflows.create(name, now=desk.now)
        failed = desk.in_state("failed", workflow=name)
        start = threading.Barrier(3)

        calls: list[Callable[[], object]] = [
            partial(desk.workflows.cancel, name, now=desk.now),
            partial(desk.task, workflow=name),
            partial(desk.tasks.retry, failed.id, now=desk.now),
        ]

        def together(call: Callable[[], object], start: threading.Barrier = start) -> str:
            start.wait(timeout=60)
            try:
                call()
            except StorageError as exc:
                return str(exc)
            return ""

        with ThreadPoolExecutor(3) as pool:
            cancelling, *adding = pool.map(together, calls)

        assert cancelling == ""
        assert all(not said or "is cancelled, expected" in said for said in adding)
        assert desk.workflows.get(name).state == "cancelled"
    assert desk.tasks.ready(now=desk.now) == []
    assert lies(desk.store) == {}
