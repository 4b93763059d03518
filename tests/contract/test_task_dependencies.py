"""
Tasks that wait for each other: counted right in every order of events, never in a circle.

Taken out once, and seen to fail: the second look for a circle under the locks, the locks of workflows and of loose
tasks, the lock of the tasks that a completion sets free.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise, permutations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from storage.errors import DependencyCycle, InputError, StorageError, UnknownName
from storage.repositories import TaskSpec
from storage.sqlstate import sqlstate_of
from storage.states import TASK
from storage.store import Capability, Store
from storage.work_models import Task
from tests.work import LEASE, Desk, lies

pytestmark = pytest.mark.each_kind


@pytest.fixture
def desk(store: Store) -> Desk:
    """Return a desk on a fresh database."""
    return Desk(store)


def blocked(desk: Desk, *tasks: Task) -> list[int]:
    """Return how many tasks each of *tasks* waits for."""
    return [desk.tasks.get(task.id).blocked_by for task in tasks]


# ---------------------------------------------------------------- counted


def test_one_dependency_in_every_order(desk: Desk) -> None:
    """However the other one comes to where it is, and whenever the dependency is added, it is counted right."""
    ways = {
        "pending": (),
        "running": ("running",),
        "completed": ("running", "completed"),
        "failed": ("running", "failed"),
        "cancelled": ("cancelled",),
        "tried again": ("running", "failed", "pending"),
        "completed at last": ("running", "failed", "pending", "running", "completed"),
        "failed and cancelled": ("running", "failed", "cancelled"),
    }
    for what, way in ways.items():
        for at in range(len(way) + 1):
            first, second = desk.task("first"), desk.task("second")
            desk.move(first, *way[:at])
            desk.tasks.add_dependency(second.id, first.id)
            desk.move(first, *way[at:])

            assert blocked(desk, second) == [0 if what.startswith("completed") else 1], (what, at)
        third = desk.task("third", depends_on=(first.id,))
        assert blocked(desk, third) == blocked(desk, second)

    assert lies(desk.store) == {}


def test_several_dependencies(desk: Desk) -> None:
    """A task waits for the last of all that it depends on, in whatever order they are completed."""
    for order in permutations(range(3)):
        before = [desk.task(f"b{number}") for number in range(3)]
        last = desk.task("last", depends_on=tuple(task.id for task in before))
        counts = []
        for number in order:
            counts.append(blocked(desk, last)[0])
            desk.move(before[number], "running", "completed")

        assert counts == [3, 2, 1]
        assert blocked(desk, last) == [0]
    assert lies(desk.store) == {}


def test_one_sets_many_free(desk: Desk) -> None:
    """Completing a task takes it off everybody's list, whatever state they are in, and raises their version."""
    first, other = desk.task("first"), desk.task("other")
    waiting = [desk.task(f"w{number}", depends_on=(first.id, other.id)) for number in range(3)]
    desk.move(waiting[0], "cancelled")
    desk.move(first, "running", "completed")

    assert blocked(desk, *waiting) == [1, 1, 1]
    assert [desk.tasks.get(task.id).version for task in waiting] == [3, 2, 2]
    desk.move(other, "running", "completed")
    assert [task.id for task in desk.tasks.ready(now=desk.now)] == [task.id for task in waiting[1:]]
    assert lies(desk.store) == {}


def test_adding_twice_is_harmless(desk: Desk) -> None:
    """A dependency that is there already changes nothing."""
    first, second = desk.task(), desk.task()
    added = desk.tasks.add_dependency(second.id, first.id)
    again = desk.tasks.add_dependency(second.id, first.id)

    assert (added.blocked_by, added.version) == (again.blocked_by, again.version) == (1, 2)
    assert [task.id for task in desk.tasks.dependencies(second.id)] == [first.id]


def test_names(desk: Desk) -> None:
    """Tasks of the same workflow are found by their names, and others by their ids."""
    for name in ("v", "w"):
        desk.workflows.create(name, now=desk.now)
    first, second = desk.task("first", workflow="w"), desk.task("second", workflow="w")
    elsewhere = desk.task("elsewhere", workflow="v")
    loose = desk.task("loose")
    desk.tasks.add_dependency(second.id, "first")
    desk.tasks.add_dependency(second.id, elsewhere.id)
    desk.tasks.add_dependency(second.id, loose.id)

    assert [task.id for task in desk.tasks.dependencies(second.id)] == [first.id, elsewhere.id, loose.id]
    with pytest.raises(UnknownName, match='there is no task "frist": did you mean first'):
        desk.tasks.add_dependency(second.id, "frist")
    with pytest.raises(UnknownName, match='there is no task "elsewhere": expected one of the same workflow'):
        desk.tasks.add_dependency(first.id, "elsewhere")
    with pytest.raises(UnknownName, match="there is no task 99"):
        desk.tasks.add_dependency(first.id, 99)
    with pytest.raises(InputError, match=r'\(loose\) has no workflow in which a task could be "first": say its id'):
        desk.tasks.add_dependency(loose.id, "first")


def test_only_what_is_to_begin_waits(desk: Desk) -> None:
    """A task that runs or has ended for good waits for nothing any more; one that failed waits before its next try."""
    first = desk.task("first")
    for state in ("running", "completed", "cancelled"):
        task = desk.in_state(state, name="x")
        with pytest.raises(StorageError, match=rf"\(x\) is {state}, expected pending or failed"):
            desk.tasks.add_dependency(task.id, first.id)
    task = desk.in_state("failed", name="x")
    desk.tasks.add_dependency(task.id, first.id)
    desk.tasks.retry(task.id, now=desk.now)

    assert [each.id for each in desk.tasks.ready(now=desk.now)] == [first.id]
    assert lies(desk.store) == {}


# ---------------------------------------------------------------- circles


def test_circles_are_refused(desk: Desk) -> None:
    """A dependency on itself, of two on each other, and a long one: each is named, the shortest way round."""
    desk.workflows.create("w", now=desk.now)
    names = [f"t{number}" for number in range(40)]
    made = desk.tasks.create_many(
        [TaskSpec(type="t", name=n, workflow="w", depends_on=names[max(0, k - 1) : k]) for k, n in enumerate(names)],
        desk.now,
    )
    # A detour, which is no part of the shortest circle.
    desk.tasks.add_dependency(made[10].id, "t3")
    title = [f"task {task.id} ({task.name})" for task in made]

    for task, before, cycle in (
        (5, 5, (5, 5)),
        (4, 5, (4, 5, 4)),
        (1, 12, (1, 12, 11, 10, 3, 2, 1)),
        (0, 39, (0, *range(39, 9, -1), 3, 2, 1, 0)),
    ):
        with pytest.raises(DependencyCycle) as caught:
            desk.tasks.add_dependency(made[task].id, made[before].id)

        assert caught.value.cycle == tuple(title[number] for number in cycle)
        expected = " waits for ".join(title[number] for number in cycle)
        assert str(caught.value) == f"dependencies would go round in a circle, expected none: {expected}"
        assert desk.tasks.get(made[task].id).version == made[task].version
    assert lies(desk.store) == {}


def test_circle_across_workflows(desk: Desk) -> None:
    """Circles are found wherever their tasks belong."""
    for name in ("v", "w"):
        desk.workflows.create(name, now=desk.now)
    first = desk.task("first", workflow="v")
    second = desk.task("second", depends_on=(first.id,))
    third = desk.task("third", workflow="w", depends_on=(second.id,))

    with pytest.raises(DependencyCycle, match=r"\(first\) waits for .*\(third\) waits for .*\(second\) waits for"):
        desk.tasks.add_dependency(first.id, third.id)


def test_circle_of_new_tasks(desk: Desk) -> None:
    """Tasks that are made together and would wait for each other are not made."""
    desk.workflows.create("w", now=desk.now)
    waits = {"a": "c", "b": "a", "c": "b", "d": "a"}
    specs = [TaskSpec(type="t", name=name, workflow="w", depends_on=(on,)) for name, on in waits.items()]
    with pytest.raises(DependencyCycle) as caught:
        desk.tasks.create_many(specs, desk.now)
    cycle = [each.removeprefix('task "').removesuffix('"') for each in caught.value.cycle]

    assert cycle[0] == cycle[-1]
    assert sorted(cycle[1:]) == ["a", "b", "c"]
    assert all(waits[one] == other for one, other in pairwise(cycle))
    assert list(desk.tasks.list()) == []


@pytest.mark.parametrize("scope", ["one workflow", "no workflow", "several"])
def test_two_that_would_close_a_circle_together(desk: Desk, scope: str) -> None:
    """Of four that add at the same time what would be a circle of all, one is refused, and no circle is made."""
    rounds = 4
    for number in range(rounds):
        # Four pairs; each thread has the second of one wait for the first of the next.
        workflows = [f"{scope}-{number}-{0 if scope == 'one workflow' else pair}" for pair in range(4)]
        for name in dict.fromkeys(workflows):
            desk.workflows.create(name, now=desk.now)
        pairs = []
        for name in workflows:
            flow = None if scope == "no workflow" else name
            first = desk.task(workflow=flow)
            pairs.append((first.id, desk.task(workflow=flow, depends_on=(first.id,)).id))
        start = threading.Barrier(4)

        def add(pair: int, pairs: list[tuple[int, int]] = pairs, start: threading.Barrier = start) -> bool:
            first, _ = pairs[pair]
            _, last = pairs[(pair + 1) % 4]
            start.wait(timeout=60)
            try:
                desk.tasks.add_dependency(first, last)
            except DependencyCycle:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            added = list(pool.map(add, range(4)))

        assert sorted(added) == [False, True, True, True]
    assert lies(desk.store) == {}


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_nobody_waits_in_a_circle(desk: Desk) -> None:
    """Completions, and additions that lead to the same tasks, take turns: the server has no deadlock to resolve."""
    size = 4
    states: list[str | None] = []
    event.listen(
        desk.store.engine, "handle_error", lambda context: states.append(sqlstate_of(context.original_exception))
    )
    for _ in range(5):
        # Older than what they wait for: a completion has to lock them before the task that is completed.
        waiting = [desk.task() for _ in range(size)]
        before = [desk.in_state("running") for _ in range(size)]
        for task in waiting:
            for other in before:
                desk.tasks.add_dependency(task.id, other.id)
        calls = [partial(desk.tasks.set_state, task.id, "completed", now=desk.now) for task in before]
        again = [partial(desk.tasks.add_dependency, one.id, two.id) for one, two in zip(waiting, before, strict=True)]
        start = threading.Barrier(2 * size)

        def together(call: Callable[[], Task], start: threading.Barrier = start) -> None:
            start.wait(timeout=60)
            call()

        with ThreadPoolExecutor(2 * size) as pool:
            list(pool.map(together, [*calls, *again]))

        assert blocked(desk, *waiting) == [0] * size
    assert states == []
    assert lies(desk.store) == {}


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_task_that_is_made_while_what_it_waits_for_ends(desk: Desk) -> None:
    """Whether the other one is completed just before or just after, the new task does not wait for it for ever."""
    for _ in range(12):
        first = desk.in_state("running")
        other = desk.task()
        start = threading.Barrier(3)

        def together(which: int, first: Task = first, other: Task = other, start: threading.Barrier = start) -> Task:
            start.wait(timeout=60)
            if which == 0:
                return desk.tasks.set_state(first.id, "completed", now=desk.now)
            if which == 1:
                return desk.task(depends_on=(first.id,))
            return desk.tasks.add_dependency(other.id, first.id)

        with ThreadPoolExecutor(3) as pool:
            _, made, waiting = pool.map(together, range(3))

        assert blocked(desk, made, waiting) == [0, 0]
    assert lies(desk.store) == {}


# ---------------------------------------------------------------- against an oracle

#: A number picks a task, modulo as many as there are.
PICK = st.integers(0, 11)
STEP = st.one_of(
    st.tuples(st.just("create"), st.lists(PICK, max_size=3)),
    st.tuples(st.just("add"), st.tuples(PICK, PICK)),
    st.tuples(st.just("claim"), st.none()),
    st.tuples(st.sampled_from(TASK.states()), PICK),
    st.tuples(st.sampled_from(TASK.states()), PICK),
    st.tuples(st.just("recover"), st.none()),
)


class Oracle:
    """What the tables must say, in a few lines of Python."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.leased: list[bool] = []
        self.attempts: list[int] = []
        self.limits: list[int] = []
        self.waits: list[set[int]] = []

    def blocked_by(self, task: int) -> int:
        """Return how many tasks *task* waits for."""
        return sum(self.states[before] != "completed" for before in self.waits[task])

    def reaches(self, task: int, other: int) -> bool:
        """Tell whether *task* waits for *other*, at whatever remove."""
        return task == other or any(self.reaches(before, other) for before in self.waits[task])

    def ready(self) -> list[int]:
        """Return what may be given out."""
        return [task for task, state in enumerate(self.states) if state == "pending" and not self.blocked_by(task)]

    def run(self, task: int, *, leased: bool) -> None:
        """Begin with *task*."""
        self.states[task], self.leased[task] = "running", leased
        self.attempts[task] += 1

    def move(self, task: int, state: str) -> None:
        """Take *task* to *state*, other than running."""
        self.states[task], self.leased[task] = state, False
        if state == "pending":
            self.limits[task] = max(self.limits[task], self.attempts[task] + 1)


def step(desk: Desk, oracle: Oracle, ids: list[int], what: str, argument: object) -> None:
    """Do the same to both, and insist that both do it or refuse it."""
    n = len(ids)
    match what, argument:
        case "create", list(picks):
            waits = {pick % n for pick in picks} if n else set()
            ids.append(desk.task(depends_on=tuple(ids[each] for each in waits), max_attempts=2).id)
            oracle.states.append("pending")
            oracle.leased.append(False)
            oracle.attempts.append(0)
            oracle.limits.append(2)
            oracle.waits.append(waits)
        case "add", (int(one), int(other)) if n:
            one, other = one % n, other % n
            if oracle.reaches(other, one) and (one == other or oracle.states[one] in ("pending", "failed")):
                with pytest.raises(DependencyCycle):
                    desk.tasks.add_dependency(ids[one], ids[other])
            elif oracle.states[one] not in ("pending", "failed"):
                with pytest.raises(StorageError, match="expected pending or failed"):
                    desk.tasks.add_dependency(ids[one], ids[other])
            else:
                desk.tasks.add_dependency(ids[one], ids[other])
                oracle.waits[one].add(other)
        case "claim", _:
            taken = desk.claim()
            assert [ids.index(task.id) for task in [taken] if task] == oracle.ready()[:1]
            if taken is not None:
                oracle.run(ids.index(taken.id), leased=True)
        case "recover", _:
            desk.wait(LEASE)
            recovered = desk.tasks.recover(desk.now)
            over = [task for task, leased in enumerate(oracle.leased) if leased]
            again = [task for task in over if oracle.attempts[task] < oracle.limits[task]]
            assert recovered.retried == tuple(ids[task] for task in again)
            assert recovered.failed == tuple(ids[task] for task in over if task not in again)
            for task in over:
                oracle.move(task, "pending" if task in again else "failed")
        case str(state), int(pick) if n:
            task = pick % n
            allowed = state in TASK.ways[oracle.states[task]] and (state != "running" or not oracle.blocked_by(task))
            who = "ann" if state == "running" else None
            if not allowed:
                with pytest.raises(StorageError):
                    desk.tasks.set_state(ids[task], state, now=desk.now, agent=who)
            else:
                desk.tasks.set_state(ids[task], state, now=desk.now, agent=who)
                if state == "running":
                    oracle.run(task, leased=False)
                else:
                    oracle.move(task, state)


def test_any_order_of_events(desk: Desk) -> None:
    """After any sequence of calls the tables say what a few lines of Python say."""

    @settings(max_examples=12, suppress_health_check=list(HealthCheck))
    @given(st.lists(STEP, min_size=5, max_size=30))
    def run(steps: list[tuple[str, object]]) -> None:
        oracle, ids = Oracle(), list[int]()
        for what, argument in steps:
            step(desk, oracle, ids, what, argument)
        for task, task_id in enumerate(ids):
            found = desk.tasks.get(task_id)
            assert (found.state, found.blocked_by) == (oracle.states[task], oracle.blocked_by(task))
            assert (found.attempts, found.max_attempts) == (oracle.attempts[task], oracle.limits[task])
            # The next example begins with nothing that could be given out.
            if not TASK.is_final(found.state):
                desk.tasks.set_state(task_id, "cancelled", now=desk.now)
        assert lies(desk.store) == {}

    run()
