"""
Tasks and their steps from state to state: what may follow what, and what is kept of it.
"""

from __future__ import annotations

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
from storage.store import Store
from tests.fleet import add_agent
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
    ("running", "pending"),
    ("failed", "pending"),
    ("failed", "cancelled"),
}


@pytest.fixture
def desk(store: Store) -> Desk:
    """Return a desk on a fresh database."""
    return Desk(store)


# ---------------------------------------------------------------- transitions


def test_every_transition(desk: Desk) -> None:
    """Each legal one is done and kept, each other one is refused and leaves the task as it was."""
    for old in STATES:
        for new in STATES:
            task = desk.in_state(old, name="x")
            before = len(desk.tasks.history(task.id))
            who = "bob" if new == "running" else None
            if (old, new) in LEGAL:
                moved = desk.tasks.set_state(task.id, new, now=desk.wait(SECOND), reason="so", agent=who)
                last = desk.tasks.history(task.id)[-1]

                assert (moved.state, moved.version) == (new, task.version + 1)
                assert (last.from_state, last.to_state, last.ts, last.reason) == (old, new, desk.now, "so")
                assert len(desk.tasks.history(task.id)) == before + 1
                continue
            with pytest.raises(IllegalTransition) as caught:
                desk.tasks.set_state(task.id, new, now=desk.now, agent=who)
            allowed = sorted(follower for state, follower in LEGAL if state == old)

            assert caught.value.allowed == tuple(allowed)
            expected = " or ".join(allowed) or f"nothing, {old} is final"
            assert str(caught.value) == f"task {task.id} (x) cannot go from {old} to {new}, expected {expected}"
            assert vars(desk.tasks.get(task.id)).keys() == vars(task).keys()
            assert desk.tasks.get(task.id).version == task.version
            assert len(desk.tasks.history(task.id)) == before

    assert lies(desk.store) == {}


def test_unknown_state(desk: Desk) -> None:
    """A state that there is none of is refused with those that there are."""
    task = desk.task("x")

    with pytest.raises(IllegalTransition, match="from pending to done, expected pending or running or completed or"):
        desk.tasks.set_state(task.id, "done", now=desk.now)


def test_a_life_by_hand(desk: Desk) -> None:
    """A person takes a task through failure and a second try; each column tells what it should at each step."""
    task = desk.task("x", max_attempts=1)
    began = desk.wait()
    task = desk.tasks.set_state(task.id, "running", now=began, agent="ann")
    ann = task.agent_id
    assert (task.attempts, task.started_at, task.finished_at, task.lease, task.lease_until) == (
        1,
        began,
        None,
        None,
        None,
    )

    ended = desk.wait()
    task = desk.tasks.set_state(task.id, "failed", now=ended, reason="no disk\nleft", result={"done": 0.5})
    assert (task.started_at, task.finished_at, task.agent_id) == (began, ended, ann)
    assert (task.reason, task.result) == ("no disk\nleft", {"done": 0.5})

    task = desk.tasks.retry(task.id, now=desk.wait(), reason="more disk", priority=3, due_at=desk.now)
    assert (task.state, task.finished_at, task.result, task.reason) == ("pending", None, None, "")
    assert (task.started_at, task.agent_id, task.priority, task.due_at) == (began, ann, 3, desk.now)
    assert (task.attempts, task.max_attempts) == (1, 2)

    again = desk.wait()
    task = desk.tasks.set_state(task.id, "running", now=again, agent="bob")
    assert (task.attempts, task.started_at) == (2, again)
    assert task.agent_id != ann

    task = desk.tasks.set_state(task.id, "completed", now=desk.wait(), result=[1])
    assert (task.finished_at, task.result, task.version) == (desk.now, [1], 6)
    assert desk.tasks.get(task.id).result == [1]
    tries = desk.tasks.assignments(task.id)
    assert [(each.attempt, each.agent_id, each.started_at, each.ended_at, each.outcome) for each in tries] == [
        (1, ann, began, ended, "failed"),
        (2, task.agent_id, again, desk.now, "completed"),
    ]
    told = [(each.to_state, each.agent_id, each.reason) for each in desk.tasks.history(task.id)]
    assert told == [
        ("pending", None, ""),
        ("running", ann, ""),
        ("failed", ann, "no disk\nleft"),
        ("pending", None, "more disk"),
        ("running", task.agent_id, ""),
        ("completed", task.agent_id, ""),
    ]
    assert lies(desk.store) == {}


def test_given_back_task_gets_another_try(desk: Desk) -> None:
    """A worker that gives its last attempt back leaves one for the next worker; its own try counts as no failure."""
    task = desk.in_state("running", max_attempts=1)
    back = desk.tasks.set_state(task.id, "pending", now=desk.wait(), reason="shutting down", agent="ann")

    assert (back.state, back.attempts, back.max_attempts) == ("pending", 1, 2)
    assert desk.tasks.assignments(task.id)[0].outcome == "cancelled"
    assert desk.claimed("bob").id == task.id


def test_only_failed_tasks_are_tried_again(desk: Desk) -> None:
    """Retry of anything else is refused."""
    for state in ("pending", "running", "completed", "cancelled"):
        task = desk.in_state(state)
        with pytest.raises(IllegalTransition, match=rf"from {state} to pending") as caught:
            desk.tasks.retry(task.id, now=desk.now)
        assert "pending" not in caught.value.allowed


def test_clock_that_is_behind(desk: Desk) -> None:
    """A task that ends, by the clock of another machine, before it began has lasted no time, and not less."""
    task = desk.in_state("running")
    ended = desk.tasks.set_state(task.id, "completed", now=desk.now - MINUTE)

    assert ended.finished_at == ended.started_at == desk.now
    assert desk.tasks.assignments(task.id)[0].ended_at == desk.now
    assert desk.tasks.history(task.id)[-1].ts == desk.now - MINUTE


def test_running_needs_an_agent(desk: Desk) -> None:
    """Nobody can be asked about a task that runs by itself."""
    task = desk.task()

    with pytest.raises(InputError, match="is to run, expected the agent that begins with it"):
        desk.tasks.set_state(task.id, "running", now=desk.now)
    with pytest.raises(UnknownName, match='there is no agent "anne": did you mean ann'):
        desk.tasks.set_state(task.id, "running", now=desk.now, agent="anne")
    add_agent(desk.store, "old", state="retired")
    with pytest.raises(StorageError, match='agent "old" is retired'):
        desk.tasks.set_state(task.id, "running", now=desk.now, agent="old")
    assert desk.tasks.get(task.id).version == 1


def test_blocked_task_does_not_run(desk: Desk) -> None:
    """A task that waits for others cannot be begun by hand either; the message says what it waits for."""
    first = desk.in_state("running", name="first")
    second = desk.task("second", depends_on=(first.id,))

    with pytest.raises(StorageError, match=rf"second\) cannot begin: it waits for 1 other, such as task {first.id} "):
        desk.tasks.set_state(second.id, "running", now=desk.now, agent="ann")
    with pytest.raises(StorageError, match=r"\(first\), which is running, expected completed"):
        desk.tasks.assign(second.id, "ann", lease=None, now=desk.now)


def test_another_agents_task(desk: Desk) -> None:
    """An agent can finish only its own task; any may cancel it, and the history says who did."""
    task = desk.in_state("running")

    for state in ("completed", "failed", "pending"):
        with pytest.raises(LeaseLost, match='is in the hands of agent "ann", expected "bob"'):
            desk.tasks.set_state(task.id, state, now=desk.now, agent="bob")
    desk.tasks.set_state(task.id, "cancelled", now=desk.now, agent="bob")
    [tried] = desk.tasks.assignments(task.id)
    told = desk.tasks.history(task.id)[-1]
    assert told.agent_id is not None
    assert told.agent_id != tried.agent_id
    assert lies(desk.store) == {}


def test_result_belongs_to_an_end(desk: Desk) -> None:
    """A task that has not come to an end of its own has no result, and none that cannot be stored."""
    task = desk.in_state("running")

    with pytest.raises(InputError, match="gets a result and is to be cancelled, expected completed or failed"):
        desk.tasks.set_state(task.id, "cancelled", now=desk.now, result={})
    with pytest.raises(InputError, match=r"result of task \d+ is of type object"):
        desk.tasks.set_state(task.id, "completed", now=desk.now, result=object())
    with pytest.raises(InputError, match="reason holds the character NUL"):
        desk.tasks.set_state(task.id, "failed", now=desk.now, reason="\0")
    with pytest.raises(StorageError, match="has no time zone"):
        desk.tasks.set_state(task.id, "failed", now=desk.now.replace(tzinfo=None))
    assert desk.tasks.get(task.id).state == "running"


def test_version_that_was_read(desk: Desk) -> None:
    """Who has read an older version changes nothing; without a version the last word counts."""
    task = desk.task("x")
    desk.move(task, "running")

    with pytest.raises(StaleVersion, match=r"\(x\) was changed meanwhile: found version 2, expected 1: read it again"):
        desk.tasks.set_state(task.id, "cancelled", now=desk.now, version=task.version)
    assert desk.tasks.set_state(task.id, "cancelled", now=desk.now, version=2).version == 3


# ---------------------------------------------------------------- steps


def test_steps(desk: Desk) -> None:
    """Steps stand in their order, are found by name and position, and keep what came of them."""
    task = desk.in_state("running", subtasks=("read", "think"))
    added = desk.tasks.add_subtask(task.id, "write", desk.now)
    desk.tasks.set_subtask_state(task.id, "read", "running", now=desk.now)
    done = desk.tasks.set_subtask_state(task.id, 1, "completed", now=desk.wait(), result={"pages": 3})

    assert (added.position, added.name, added.state) == (3, "write", "pending")
    assert (done.state, done.result, done.started_at, done.finished_at) == (
        "completed", {"pages": 3}, desk.now - MINUTE, desk.now,
    )  # fmt: skip
    assert [step.name for step in desk.tasks.subtasks(task.id)] == ["read", "think", "write"]
    with pytest.raises(DuplicateName, match='subtask "write" is there already'):
        desk.tasks.add_subtask(task.id, "write", desk.now)
    with pytest.raises(InputError, match="name of a subtask is ''"):
        desk.tasks.add_subtask(task.id, "", desk.now)
    with pytest.raises(UnknownName, match='there is no subtask "wrote": did you mean write'):
        desk.tasks.set_subtask_state(task.id, "wrote", "running", now=desk.now)
    with pytest.raises(UnknownName, match=r"there is no subtask 4: task \d+ \(work\) has 3"):
        desk.tasks.set_subtask_state(task.id, 4, "running", now=desk.now)
    with pytest.raises(IllegalTransition, match=r"subtask 2 \(think\) of task .* cannot go from pending to completed"):
        desk.tasks.set_subtask_state(task.id, "think", "completed", now=desk.now)
    with pytest.raises(InputError, match="gets a result and is to be running"):
        desk.tasks.set_subtask_state(task.id, "think", "running", now=desk.now, result=1)


def test_steps_follow_their_task(desk: Desk) -> None:
    """What is left of a task's steps goes where the task goes; what is completed stays."""

    def steps(task_id: int) -> list[str]:
        return [step.state for step in desk.tasks.subtasks(task_id)]

    def begun() -> int:
        task = desk.in_state("running", subtasks=("a", "b", "c"))
        desk.tasks.set_subtask_state(task.id, "a", "running", now=desk.now)
        desk.tasks.set_subtask_state(task.id, "a", "completed", now=desk.now, result=1)
        desk.tasks.set_subtask_state(task.id, "b", "running", now=desk.now)
        assert steps(task.id) == ["completed", "running", "pending"]
        return task.id

    cancelled, failed, back, completed = (begun() for _ in range(4))
    desk.tasks.set_state(cancelled, "cancelled", now=desk.now)
    desk.tasks.set_state(failed, "failed", now=desk.now)
    desk.tasks.set_state(back, "pending", now=desk.now)
    desk.tasks.set_state(completed, "completed", now=desk.now)

    assert steps(cancelled) == ["completed", "cancelled", "cancelled"]
    assert steps(failed) == ["completed", "failed", "pending"]
    assert steps(back) == ["completed", "pending", "pending"]
    assert steps(completed) == ["completed", "running", "pending"]
    desk.tasks.retry(failed, now=desk.now)
    assert steps(failed) == ["completed", "pending", "pending"]
    assert desk.tasks.subtasks(failed)[0].result == 1
    for ended in (cancelled, completed):
        with pytest.raises(StorageError, match="expected one that has not ended: its steps stay as they are"):
            desk.tasks.set_subtask_state(ended, "b", "completed", now=desk.now)
        with pytest.raises(StorageError, match="expected one that has not ended"):
            desk.tasks.add_subtask(ended, "d", desk.now)
    assert lies(desk.store) == {}


def test_every_transition_of_a_step(desk: Desk) -> None:
    """Steps know the same states as tasks."""
    for old in STATES:
        for new in STATES:
            task = desk.in_state("running", subtasks=("s",))
            way = {"pending": (), "running": ("running",), "cancelled": ("cancelled",)}
            for state in way.get(old, ("running", old)):
                desk.tasks.set_subtask_state(task.id, "s", state, now=desk.now)
            if (old, new) in LEGAL:
                moved = desk.tasks.set_subtask_state(task.id, "s", new, now=desk.wait(SECOND))

                assert moved.state == new
                assert (moved.finished_at == desk.now) == (new in ("completed", "failed", "cancelled"))
                continue
            with pytest.raises(IllegalTransition, match=f"from {old} to {new}"):
                desk.tasks.set_subtask_state(task.id, "s", new, now=desk.now)

    assert lies(desk.store) == {}
