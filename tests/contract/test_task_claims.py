"""
Who gets which task, for how long, and what becomes of it when that one dies.

Taken out once, and seen to fail: SKIP LOCKED, the look at the lease when a worker finishes, recovery in a claim, the lock
of a task that is finished.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import select

from storage import schema
from storage.errors import IllegalTransition, InputError, LeaseLost, StorageError, UnknownName
from storage.open import open_store
from storage.repositories import Recovered, TaskSpec, claims
from storage.store import Capability, Store
from storage.work_models import Task
from tests import claimers
from tests.claimers import Note, agent_name, read_notes
from tests.daemon.conditions import eventually
from tests.fleet import add_agent
from tests.work import LEASE, MINUTE, SECOND, Desk, add_capabilities, lies

pytestmark = pytest.mark.each_kind


@pytest.fixture
def desk(store: Store) -> Desk:
    """Return a desk on a fresh database."""
    return Desk(store)


# ---------------------------------------------------------------- which task


def test_order(desk: Desk) -> None:
    """Lower priorities come first, then older tasks."""
    made = {name: desk.task(name, priority=priority) for name, priority in (("b", 5), ("c", 5), ("a", -1), ("d", 100))}
    ready = [task.name for task in desk.tasks.ready(now=desk.now)]
    taken = [desk.claimed(agent).name for agent in ("ann", "bob", "ann", "bob")]

    assert ready == taken == ["a", "b", "c", "d"]
    assert desk.claim() is None
    assert desk.tasks.ready(now=desk.now) == []
    assert {task.state for task in desk.tasks.list()} == {"running"}
    assert len(made) == 4


def test_types(desk: Desk) -> None:
    """A worker gets tasks of the types that it asks for, the best of all of them first."""
    for number, type_ in enumerate(("x", "y", "z", "y", "x")):
        desk.task(f"{type_}{number}", type=type_, priority=9 - number)

    assert [task.name for task in desk.tasks.ready(["x", "y"], now=desk.now)] == ["x4", "y3", "y1", "x0"]
    assert [task.name for task in desk.tasks.ready(["x", "y"], 2, now=desk.now)] == ["x4", "y3"]
    assert [task.name for task in desk.tasks.ready(["z"], now=desk.now)] == ["z2"]
    assert desk.tasks.ready([], now=desk.now) == []
    assert [desk.claimed("ann", "x", "y", "none").name for _ in range(4)] == ["x4", "y3", "y1", "x0"]
    assert desk.claim("ann", "x", "y") is None
    assert desk.tasks.claim("ann", [], lease=LEASE, now=desk.now) is None
    assert desk.claimed("ann").name == "z2"
    with pytest.raises(InputError, match=r'types is "xy", expected a list of types: write \["xy"\]'):
        desk.tasks.claim("ann", "xy", lease=LEASE, now=desk.now)
    with pytest.raises(InputError, match="expected a list of types"):
        desk.tasks.ready("xy", now=desk.now)


@pytest.mark.parametrize("asked", [40, 2_000])
def test_many_types(desk: Desk, asked: int) -> None:
    """However many types a worker asks for or is capable of, and there is anything of, it gets the first of all of them."""
    types = [f"t{number}" for number in range(asked)]
    there = min(asked, 120)
    desk.tasks.create_many([TaskSpec(type=type_) for type_ in types[:there]], desk.now)
    desk.task("later", type="t3", priority=0, due_at=desk.now + MINUTE)
    desk.task("first", type=types[-1], priority=1)
    desk.task("other", type="other", priority=2)
    add_capabilities(desk.store, "bob", *types[:1_000])
    ready = desk.tasks.ready(types, 3, now=desk.now)

    assert [(task.type, task.name) for task in ready] == [(types[-1], "first"), ("t0", None), ("t1", None)]
    assert desk.claimed("ann", *types).name == "first"
    assert [desk.claimed("bob").type for _ in range(2)] == ["t0", "t1"]
    assert desk.claim("ann", *(f"none{number}" for number in range(asked))) is None
    desk.wait()
    assert desk.claimed("bob").name == "later"
    assert desk.claimed().name == "other"


def test_too_many_types(desk: Desk) -> None:
    """More types than a statement can list are refused in these words."""
    with pytest.raises(InputError, match="types are 10,001, expected at most 10,000: None is any"):
        desk.tasks.ready([f"t{number}" for number in range(10_001)], now=desk.now)


def test_capabilities(desk: Desk) -> None:
    """Without types an agent gets what it is capable of; one that has not said what that is gets anything."""
    add_capabilities(desk.store, "ann", "x", "y")
    for type_ in ("z", "y", "x"):
        desk.task(type_, type=type_)

    assert [desk.claimed("ann").name for _ in range(2)] == ["y", "x"]
    assert desk.claim("ann") is None
    assert desk.claimed("bob").name == "z"
    desk.task("z", type="z")
    assert desk.claimed("ann", "z").name == "z"


def test_due(desk: Desk) -> None:
    """A task is given out at its moment and not before; a person may hand it out all the same."""
    task = desk.task("x", due_at=desk.now + MINUTE)
    other = desk.task("y", due_at=desk.now + MINUTE)

    assert desk.claim() is None
    assert desk.claim("ann", "work", "more") is None
    assert desk.tasks.ready(now=desk.now + MINUTE - timedelta(microseconds=1)) == []
    assert desk.tasks.assign(other.id, "bob", lease=None, now=desk.now).state == "running"
    desk.wait()
    assert [each.id for each in desk.tasks.ready(now=desk.now)] == [task.id]
    assert desk.claimed("ann", "work", "more").id == task.id


def test_blocked(desk: Desk) -> None:
    """A task that waits for another is given out when that is completed."""
    first = desk.task("first", priority=200)
    second = desk.task("second", priority=1, depends_on=(first.id,))

    assert [task.id for task in desk.tasks.ready(now=desk.now)] == [first.id]
    taken = desk.claimed()
    assert taken.id == first.id
    assert desk.claim() is None
    desk.tasks.set_state(first.id, "completed", now=desk.now, lease=taken.lease)
    assert desk.claimed().id == second.id


def test_claim_is_written_down(desk: Desk) -> None:
    """A claim makes the task the agent's: state, times, lease, a try and an event."""
    desk.task("x")
    desk.wait()
    task = desk.claimed("bob", lease=90 * SECOND)
    [tried] = desk.tasks.assignments(task.id)
    told = desk.tasks.history(task.id)[-1]

    assert (task.state, task.attempts, task.version) == ("running", 1, 2)
    assert (task.started_at, task.lease_until) == (desk.now, desk.now + 90 * SECOND)
    assert task.lease is not None
    assert (tried.agent_id, tried.attempt, tried.started_at, tried.ended_at, tried.outcome) == (
        task.agent_id, 1, desk.now, None, None,
    )  # fmt: skip
    assert (told.from_state, told.to_state, told.agent_id, told.ts) == ("pending", "running", task.agent_id, desk.now)
    assert desk.tasks.get(task.id).lease == task.lease
    assert lies(desk.store) == {}


def test_who_may_claim(desk: Desk) -> None:
    """Agents that there are none of, and those that are retired, get nothing; those in maintenance do."""
    add_agent(desk.store, "old", state="retired")
    add_agent(desk.store, "resting", state="paused")
    task = desk.task("x")

    for name, error, message in (
        ("anne", UnknownName, 'there is no agent "anne": did you mean ann'),
        ("old", StorageError, 'agent "old" is retired'),
    ):
        with pytest.raises(error, match=message):
            desk.claim(name)
        with pytest.raises(error, match=message):
            desk.tasks.assign(task.id, name, lease=LEASE, now=desk.now)
    assert desk.claimed("resting").id == task.id


def test_lease_has_a_length(desk: Desk) -> None:
    """No lease is over before it began, or longer than anybody waits."""
    task = desk.task("x")

    for length in (timedelta(0), -SECOND, timedelta(days=367), timedelta.max):
        tries: list[Callable[[], object]] = [
            partial(desk.claim, lease=length),
            partial(desk.tasks.assign, task.id, "ann", lease=length, now=desk.now),
            partial(desk.tasks.extend_lease, task.id, uuid4(), length, desk.now),
        ]
        for each in tries:
            with pytest.raises(InputError, match="expected a timedelta of more than 0 s and at most 366 days"):
                each()
    with pytest.raises(StorageError, match="has no time zone"):
        desk.tasks.claim("ann", lease=LEASE, now=desk.now.replace(tzinfo=None))


def test_assign(desk: Desk) -> None:
    """A person gives one agent one task, with a lease or without; what runs already is not given again."""
    first, second = desk.task("first"), desk.task("second")
    taken = desk.tasks.assign(second.id, "bob", lease=LEASE, now=desk.now)
    kept = desk.tasks.assign(first.id, "ann", lease=None, now=desk.now)

    assert (taken.state, taken.lease_until, taken.attempts) == ("running", desk.now + LEASE, 1)
    assert (kept.state, kept.lease, kept.lease_until) == ("running", None, None)
    with pytest.raises(IllegalTransition, match="from running to running"):
        desk.tasks.assign(second.id, "ann", lease=LEASE, now=desk.now)
    desk.wait(timedelta(days=1_000))
    assert desk.tasks.recover(desk.now) == Recovered(retried=(second.id,))
    assert desk.tasks.get(first.id).state == "running"
    assert lies(desk.store) == {}


# ---------------------------------------------------------------- leases


def test_lease_that_ends(desk: Desk) -> None:
    """A task goes to the next worker at the moment when its lease ends, and not before."""
    desk.task("x")
    first = desk.claimed("ann")
    desk.wait(LEASE - timedelta(microseconds=1))
    assert desk.claim("bob") is None
    assert desk.tasks.recover(desk.now) == Recovered()
    desk.wait(timedelta(microseconds=1))
    second = desk.claimed("bob")

    assert second.id == first.id
    assert (second.attempts, second.started_at) == (2, desk.now)
    assert second.lease != first.lease
    assert second.agent_id != first.agent_id
    tries = desk.tasks.assignments(first.id)
    assert [(each.agent_id, each.ended_at, each.outcome) for each in tries] == [
        (first.agent_id, desk.now, "lease_expired"),
        (second.agent_id, None, None),
    ]
    told = [(each.to_state, each.agent_id, each.reason) for each in desk.tasks.history(first.id)][2:]
    assert told == [("pending", first.agent_id, "its lease was over"), ("running", second.agent_id, "")]
    assert lies(desk.store) == {}


def test_lost_lease(desk: Desk) -> None:
    """A worker whose lease is over, taken away or given to another says nothing any more; whoever has it does."""
    desk.task("x", subtasks=("s",))
    first = desk.claimed("ann")
    assert first.lease is not None
    lease = first.lease

    def insist_lost(message: str) -> None:
        before = desk.tasks.get(first.id)
        for state in ("completed", "failed", "cancelled", "pending"):
            with pytest.raises(LeaseLost, match=message):
                desk.tasks.set_state(first.id, state, now=desk.now, lease=lease)
        with pytest.raises(LeaseLost, match=message):
            desk.tasks.extend_lease(first.id, lease, LEASE, desk.now)
        assert desk.tasks.get(first.id).version == before.version

    desk.wait(LEASE)
    insist_lost(r"task \d+ \(x\) was leased until 2026-03-10T12:05:00\+00:00, which is over: drop the work")
    desk.tasks.recover(desk.now)
    insist_lost(r"\(x\) is pending, expected it to run under lease")
    second = desk.claimed("ann")
    insist_lost(r"\(x\) was given out again, lease [0-9a-f-]{36} is not in force any more")
    done = desk.tasks.set_state(first.id, "completed", now=desk.now, agent="ann", lease=second.lease, result=7)
    assert (done.state, done.result, done.lease) == ("completed", 7, None)
    insist_lost(r"\(x\) is completed, expected it to run")
    assert lies(desk.store) == {}


def test_lease_of_no_length(desk: Desk) -> None:
    """A task that was given out without a lease is under none."""
    task = desk.in_state("running", name="x")

    with pytest.raises(LeaseLost, match="was given out again"):
        desk.tasks.set_state(task.id, "completed", now=desk.now, lease=uuid4())


def test_extended_lease(desk: Desk) -> None:
    """A lease is made longer, from now on, as often as its worker says so in time; shorter too."""
    desk.task("x")
    task = desk.claimed()
    assert task.lease is not None
    for _ in range(3):
        desk.wait(LEASE - SECOND)
        longer = desk.tasks.extend_lease(task.id, task.lease, LEASE, desk.now)
        assert (longer.lease_until, longer.lease, longer.attempts) == (desk.now + LEASE, task.lease, 1)
        assert desk.claim("bob") is None
    desk.tasks.extend_lease(task.id, task.lease, SECOND, desk.now)
    desk.wait(SECOND)

    assert desk.tasks.recover(desk.now) == Recovered(retried=(task.id,))
    assert len(desk.tasks.history(task.id)) == 3


def test_attempts_end(desk: Desk) -> None:
    """A task that was given out as often as it may be fails with its last lease; a person may still try it again."""
    task = desk.task("x", max_attempts=2, subtasks=("s",))
    for _ in range(2):
        desk.claimed("ann")
        desk.tasks.set_subtask_state(task.id, "s", "running", now=desk.now)
        desk.wait(LEASE)
        recovered = desk.tasks.recover(desk.now)
    task = desk.tasks.get(task.id)

    assert recovered == Recovered(failed=(task.id,))
    assert (task.state, task.reason) == ("failed", "its lease was over, no attempts left")
    assert (task.finished_at, task.lease, task.lease_until) == (desk.now, None, None)
    assert [each.outcome for each in desk.tasks.assignments(task.id)] == ["lease_expired", "lease_expired"]
    assert desk.tasks.subtasks(task.id)[0].state == "failed"
    assert desk.claim() is None
    desk.tasks.retry(task.id, now=desk.now)
    assert desk.claimed().attempts == 3
    assert desk.tasks.subtasks(task.id)[0].state == "pending"
    assert lies(desk.store) == {}


def test_recover_a_few_at_a_time(desk: Desk) -> None:
    """Those whose lease ended first come first, as many as were asked for."""
    made = desk.tasks.create_many([TaskSpec(type="t", max_attempts=1 + number % 2) for number in range(6)], desk.now)
    ids = [task.id for task in made]
    for number in range(6):
        desk.claimed(lease=(10 - number) * SECOND)
    desk.wait()

    assert desk.tasks.recover(desk.now, limit=3) == Recovered(retried=(ids[3], ids[5]), failed=(ids[4],))
    assert desk.tasks.recover(desk.now) == Recovered(retried=(ids[1],), failed=(ids[0], ids[2]))
    assert desk.tasks.recover(desk.now) == Recovered()
    with pytest.raises(InputError, match="limit is 0"):
        desk.tasks.recover(desk.now, limit=0)


# ---------------------------------------------------------------- many at once


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_claims_do_not_wait(desk: Desk) -> None:
    """A worker passes over what others are about to get, finds the next one at once, and nothing where there is none."""
    for name in ("a", "b", "c"):
        desk.task(name, type=name)
    engine = desk.store.engine
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT id FROM tasks WHERE type <> 'c' FOR UPDATE")
        # Waiting would be given up after the deadline for locks, with an error.
        assert desk.claimed("bob", "a", "b", "c").name == "c"
        assert desk.claim("bob") is None
        assert desk.claim("bob", "a") is None
        assert desk.claim("bob", "a", "b") is None
    assert desk.claimed("bob").name == "a"


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
@pytest.mark.parametrize("among", [2, 40, 120], ids=lambda among: f"{among} types")
def test_claims_look_behind_what_is_held(desk: Desk, monkeypatch: pytest.MonkeyPatch, among: int) -> None:
    """Somebody who holds many tasks, as who cancels a workflow does, hides none of those behind them."""
    monkeypatch.setattr(claims, "_CANDIDATES", 2)
    monkeypatch.setattr(claims, "_MORE_CANDIDATES", 2)
    types = [f"t{number}" for number in range(among)]
    made = desk.tasks.create_many([TaskSpec(type=type_, priority=1) for type_ in types[:2] * 9], desk.now)
    rest = desk.tasks.create_many([TaskSpec(type=type_, priority=2) for type_ in types[2:]], desk.now)
    held = [task.id for task in (*made[:-1], *rest)]
    with desk.store.engine.connect() as connection:
        connection.execute(select(Task.id).where(Task.id.in_(held)).with_for_update(key_share=True))
        assert desk.claimed("bob", *types).id == made[-1].id
        assert desk.claim("bob", *types) is None
    assert desk.claimed("bob", *types).id == made[0].id


def test_threads_that_share_a_repository(desk: Desk) -> None:
    """Threads that claim from one repository get each task once; several types, one and any."""
    desk.tasks.create_many([TaskSpec(type=f"t{number % 3}") for number in range(36)], desk.now)
    start = threading.Barrier(4)

    def worker(types: list[str] | None) -> list[int]:
        mine: list[int] = []
        start.wait(timeout=60)
        while (task := desk.tasks.claim("ann", types, lease=LEASE, now=desk.now)) is not None:
            desk.tasks.set_state(task.id, "completed", now=desk.now, lease=task.lease)
            mine.append(task.id)
        return mine

    with ThreadPoolExecutor(4) as pool:
        taken = [each for one in pool.map(worker, [["t0", "t1", "t2"], ["t1"], ["t2", "t0"], None]) for each in one]

    assert Counter(taken) == Counter({task.id: 1 for task in desk.tasks.list()})
    assert {task.state for task in desk.tasks.list()} == {"completed"}
    assert lies(desk.store) == {}


def test_two_finish_the_same_task(desk: Desk) -> None:
    """Of two that finish a task at the same moment one does, and the other learns that it came second."""
    for _ in range(5):
        task = desk.in_state("running")
        start = threading.Barrier(2)

        def finish(state: str, task_id: int = task.id, start: threading.Barrier = start) -> str:
            start.wait(timeout=60)
            try:
                return desk.tasks.set_state(task_id, state, now=desk.now).state
            except IllegalTransition:
                return ""

        with ThreadPoolExecutor(2) as pool:
            ended = list(pool.map(finish, ["completed", "cancelled"]))

        assert sorted(map(bool, ended)) == [False, True]
        assert desk.tasks.get(task.id).state in ended
    assert lies(desk.store) == {}


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    """Tell whether ``--long`` makes campaigns."""
    return bool(request.config.getoption("--long", default=False))


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
def test_processes_that_are_killed(desk: Desk, database_url: str, tmp_path: Path, is_long: bool) -> None:
    """
    Eight processes do all there is to do, while three of them are killed: with a task in their hands, in the middle of a
    completion, and wherever it is. Each task is completed once, and tried again where a lease ended.
    """
    campaign(desk, database_url, tmp_path, processes=8, tasks=10_000 if is_long else 150, lease_s=5 if is_long else 2)


def test_processes_that_share_a_file(tmp_path: Path, is_long: bool) -> None:
    """As above, with four processes that take turns at one SQLite file."""
    url = f"sqlite:///{tmp_path / 'work.db'}"
    store = open_store(url)
    try:
        schema.upgrade(store.engine)
        store.provision()
        campaign(Desk(store), url, tmp_path, processes=4, tasks=2_000 if is_long else 100, lease_s=2)
    finally:
        store.close()


def campaign(desk: Desk, url: str, folder: Path, *, processes: int, tasks: int, lease_s: float) -> None:
    """Let processes work, kill the first three, and compare what they noted with what the tables say."""
    store = desk.store
    for number in range(processes):
        add_agent(store, agent_name(number))
    desk.workflows.create("w", now=desk.now)
    # Twenty side by side, and every second one waits for one of the row before.
    before: list[tuple[str, ...]] = [(f"t{n - 20}",) if n >= 20 and n % 2 else () for n in range(tasks)]
    specs = [
        TaskSpec(type="t", name=f"t{n}", workflow="w", max_attempts=50, depends_on=each)
        for n, each in enumerate(before)
    ]
    desk.tasks.create_many(specs, desk.now)
    killed = {agent_name(0): "work", agent_name(1): "commit", agent_name(2): ""}

    with claiming(url, folder, processes, lease_s, *(hold for hold in killed.values() if hold)) as (pids, ended):
        left = list(killed)

        def ready_to_die() -> list[str]:
            said = Counter((note.agent, note.what) for note in read_notes(folder))
            return [
                agent
                for agent in left
                if (said[agent, "holds"] if killed[agent] else said[agent, "done"] > claimers.BEFORE_HOLD)
            ]

        # Whoever holds in the middle of a completion may keep all others from theirs.
        while left:
            for agent in eventually(ready_to_die, f"one of {left} to be in the middle of something", 60):
                os.kill(pids[agent], signal.SIGKILL)
                left.remove(agent)
        exits = ended()

    assert exits == {agent: -signal.SIGKILL if agent in killed else 0 for agent in pids}
    compare(store, read_notes(folder), killed, tasks)


@contextmanager
def claiming(
    url: str, folder: Path, processes: int, lease_s: float, *holds: str
) -> Iterator[tuple[dict[str, int], Callable[[], dict[str, int]]]]:
    """Run processes that claim; lend their ids, and what waits for their ends."""
    launcher = subprocess.Popen(
        [sys.executable, "-m", "tests.claimers", url, str(folder), str(processes), str(lease_s), *holds],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        # Of their own, so that all of them can be ended together.
        start_new_session=True,
    )
    try:
        assert launcher.stdout is not None
        pids: dict[str, int] = json.loads(launcher.stdout.readline())

        def ended() -> dict[str, int]:
            said, _ = launcher.communicate(timeout=1_800)
            exits: dict[str, int] = json.loads(said)
            return exits

        yield pids, ended
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()
        if launcher.stdout is not None:
            launcher.stdout.close()


def compare(store: Store, notes: list[Note], killed: dict[str, str], tasks: int) -> None:
    """Assert that tables and notes tell the same: each task done, once, nothing lost."""
    tries = store.query(
        "SELECT a.name, s.task_id, s.attempt, s.outcome FROM task_assignments AS s JOIN agents AS a ON a.id = s.agent_id"
    ).rows
    by_outcome: dict[str, set[tuple[str, int, int]]] = {}
    for agent, task, attempt, outcome in tries:
        by_outcome.setdefault(str(outcome), set()).add((str(agent), int(str(task)), int(str(attempt))))
    said: dict[str, set[tuple[str, int, int]]] = {}
    for note in notes:
        said.setdefault(note.what, set()).add((note.agent, note.task, note.attempt))
    completed, expired = by_outcome["completed"], by_outcome["lease_expired"]

    assert store.query("SELECT state, count(*) FROM tasks GROUP BY state").rows == [("completed", tasks)]
    assert store.query(
        "SELECT count(*), count(DISTINCT task_id) FROM task_events WHERE to_state = 'completed'"
    ).rows == [(tasks, tasks)]
    assert by_outcome.keys() == {"completed", "lease_expired"}
    assert len(completed) == len({task for _, task, _ in completed}) == tasks

    # What the workers say they completed was completed by them; what they did not come to say, they were killed over.
    assert said["done"] <= completed
    assert completed - said["done"] <= {each for each in said["finishing"] if each[0] in killed}
    assert len(completed - said["done"]) <= len(killed)
    assert len({task for _, task, _ in said["done"]}) == len(said["done"])
    # A try ended by its lease because its worker is dead, or because it was too slow and heard so.
    assert {each for each in expired if each[0] not in killed} <= said.get("lost", set())
    for agent, hold in killed.items():
        if hold:
            [held] = [each for each in said["holds"] if each[0] == agent]
            assert held in expired
            assert held not in completed
    # Every try that a worker knows of is in the tables, and every other one belongs to a worker that was killed.
    assert said["begun"] <= completed | expired
    assert {each for each in (completed | expired) - said["begun"] if each[0] not in killed} == set()
    assert lies(store) == {}
