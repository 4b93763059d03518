"""
Agents in the database: what a sync, a pause and a retirement do to them and to their schedules.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text

from storage.errors import DuplicateName, SettingsError, StorageError, TransientStorageError
from storage.model import AgentSpec
from storage.open import open_store
from storage.repositories import AgentRepository, SyncResult
from storage.slots import slot_offset_s
from storage.store import Store
from tests.batches import NOON, Spool

pytestmark = pytest.mark.each_kind

MINUTE = timedelta(minutes=1)
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def spec(name: str, **changes: object) -> AgentSpec:
    """Return an agent that is fit to be stored."""
    return replace(AgentSpec(name=name, endpoint="http://127.0.0.1/"), **changes)  # type: ignore[arg-type]  # fields


@pytest.fixture
def agents(store: Store) -> AgentRepository:
    """Return the repository of a fresh database."""
    return AgentRepository(store.engine)


def schedules(store: Store, name: str) -> list[tuple[datetime, datetime | None, float, float, str]]:
    """Return the schedule of an agent, oldest first."""
    rows = store.query(
        "SELECT s.from_ts, s.to_ts, s.interval_s, s.offset_s, s.state FROM agent_schedules AS s"
        " JOIN agents AS a ON a.id = s.agent_id WHERE a.name = :name ORDER BY s.from_ts, s.id",
        {"name": name},
        types={"from_ts": datetime, "to_ts": datetime},
    ).rows
    return [tuple(row) for row in rows]  # type: ignore[misc]  # five columns of these types


def test_sync_stores_every_field(agents: AgentRepository) -> None:
    """An agent comes back as it was described."""
    wanted = spec(
        "a",
        type="llm",
        probe="tcp",
        endpoint="[::1]:80",
        labels={"zone": "é", "x": ""},
        interval_s=2.5,
        timeout_s=0.25,
        rise=3,
        fall=4,
        credential="c",
        options={"send": "x\ny", "nested": {"a": [1, 2.5, None, True]}},
        paused=True,
    )
    result = agents.sync([wanted], "file", NOW)
    record = agents.get("a")

    assert result == SyncResult(added=("a",))
    assert record.spec == wanted
    assert (record.state, record.status, record.created_at, record.retired_at) == ("paused", "unknown", NOW, None)
    assert agents.active_specs() == [wanted]


def test_sync_names_what_it_did(agents: AgentRepository) -> None:
    """Added, changed, retired and unchanged agents are told apart."""
    agents.sync([spec("a"), spec("b"), spec("c")], "file", NOW)
    result = agents.sync([spec("d"), spec("a"), spec("b", rise=2)], "file", NOW + MINUTE)

    assert result == SyncResult(added=("d",), changed=("b",), retired=("c",), unchanged=("a",))
    assert [record.spec.name for record in agents.list()] == ["a", "b", "d"]
    assert agents.get("c").retired_at == NOW + MINUTE


def test_sync_of_the_same_changes_nothing(agents: AgentRepository, store: Store) -> None:
    """A second sync of the same file writes no row."""
    wanted = [spec(f"agent-{number}", paused=number == 1) for number in range(3)]
    agents.sync(wanted, "file", NOW)
    before = store.query("SELECT * FROM agents ORDER BY id").rows, schedules(store, "agent-1")
    said: list[str] = []

    def listen(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        said.append(statement.split()[0])

    event.listen(store.engine, "before_cursor_execute", listen)
    try:
        result = agents.sync(wanted, "file", NOW + MINUTE)
    finally:
        event.remove(store.engine, "before_cursor_execute", listen)

    assert result == SyncResult(unchanged=("agent-0", "agent-1", "agent-2"))
    assert "SELECT" in said
    assert set(said) <= {"SELECT", "BEGIN"}
    assert store.query("SELECT * FROM agents ORDER BY id").rows == before[0]
    assert schedules(store, "agent-1") == before[1]


def test_retired_agent_comes_back_with_its_id(agents: AgentRepository, store: Store) -> None:
    """An agent that is gone from the file and comes back is the same one; the time between is not scheduled."""
    agents.sync([spec("a")], "file", NOW)
    number = agents.get("a").id
    agents.sync([], "file", NOW + MINUTE)
    assert agents.list() == []
    assert [record.spec.name for record in agents.list(include_retired=True)] == ["a"]
    result = agents.sync([spec("a")], "file", NOW + 2 * MINUTE)

    assert result == SyncResult(added=("a",))
    assert (agents.get("a").id, agents.get("a").state, agents.get("a").retired_at) == (number, "active", None)
    assert [(row[0], row[1]) for row in schedules(store, "a")] == [(NOW, NOW + MINUTE), (NOW + 2 * MINUTE, None)]


def test_sync_touches_only_its_own(agents: AgentRepository) -> None:
    """An empty file retires the file's agents and none that was added by hand."""
    agents.add(spec("by-hand"), NOW)
    agents.sync([spec("by-file")], "file", NOW)
    result = agents.sync([], "file", NOW + MINUTE)

    assert result.retired == ("by-file",)
    assert [record.spec.name for record in agents.list()] == ["by-hand"]


def test_sync_refuses_a_name_of_the_other_source(agents: AgentRepository) -> None:
    """A name in both places is an error that names both, and nothing of that sync happens."""
    agents.add(spec("a"), NOW)
    with pytest.raises(SettingsError, match=r'"a" is in the database .* and in the settings file'):
        agents.sync([spec("0"), spec("a"), spec("b")], "file", NOW)

    assert [record.spec.name for record in agents.list()] == ["a"]


def test_retired_agent_of_the_other_source_is_taken_over(agents: AgentRepository, store: Store) -> None:
    """An agent whose samples came before it was registered, or that was retired, keeps its id when it is registered."""
    store.write(Spool().batch(samples=[("early", "m", NOON, 1.0)]))
    number = agents.get("early").id
    assert agents.get("early").state == "retired"
    agents.sync([spec("early")], "file", NOW)
    record = agents.get("early")

    assert (record.id, record.state, record.spec.source) == (number, "active", "file")


def test_sync_refuses_a_name_twice(agents: AgentRepository) -> None:
    """Two agents of one name are an error, not the last one's luck."""
    with pytest.raises(SettingsError, match='"a" stands twice'):
        agents.sync([spec("a"), spec("a", rise=2)], "file", NOW)


def test_sync_validates_before_it_writes(agents: AgentRepository) -> None:
    """One invalid agent keeps the whole sync from happening."""
    with pytest.raises(SettingsError, match="timeout"):
        agents.sync([spec("a"), spec("b", timeout_s=99.0)], "file", NOW)

    assert agents.list(include_retired=True) == []


def test_pause_and_resume_by_hand_survive_a_sync(agents: AgentRepository) -> None:
    """What a person did holds until the file changes its mind."""
    file = [spec("a"), spec("b", paused=True)]
    agents.sync(file, "file", NOW)
    agents.pause("a", NOW + MINUTE)
    agents.resume("b", NOW + MINUTE)
    agents.sync(file, "file", NOW + 2 * MINUTE)
    by_hand = {record.spec.name: record.state for record in agents.list()}
    agents.sync([spec("a", paused=True), spec("b")], "file", NOW + 3 * MINUTE)
    agents.sync(file, "file", NOW + 4 * MINUTE)

    assert by_hand == {"a": "paused", "b": "active"}
    assert {record.spec.name: record.state for record in agents.list()} == {"a": "active", "b": "paused"}


def test_schedule_follows_every_change(agents: AgentRepository, store: Store) -> None:
    """Each change of interval or state ends the open row and begins one at the same moment; others do not."""
    agents.sync([spec("a", interval_s=15.0)], "file", NOW)
    agents.sync([spec("a", interval_s=15.0, labels={"x": "y"})], "file", NOW + MINUTE)
    agents.sync([spec("a", interval_s=30.0)], "file", NOW + 2 * MINUTE)
    agents.pause("a", NOW + 3 * MINUTE)
    agents.pause("a", NOW + 4 * MINUTE)
    agents.resume("a", NOW + 5 * MINUTE)
    agents.sync([], "file", NOW + 6 * MINUTE)
    fast, slow = slot_offset_s("a", 15.0), slot_offset_s("a", 30.0)

    assert schedules(store, "a") == [
        (NOW, NOW + 2 * MINUTE, 15.0, fast, "active"),
        (NOW + 2 * MINUTE, NOW + 3 * MINUTE, 30.0, slow, "active"),
        (NOW + 3 * MINUTE, NOW + 5 * MINUTE, 30.0, slow, "paused"),
        (NOW + 5 * MINUTE, NOW + 6 * MINUTE, 30.0, slow, "active"),
    ]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["sync 5", "sync 9", "sync none", "sync paused", "pause", "resume"]),
            st.integers(min_value=-120, max_value=300),
        ),
        max_size=12,
    )
)
def test_schedule_never_overlaps(steps: Sequence[tuple[str, int]], store: Store) -> None:
    """
    After any changes, at any times, the clock set back included, rows neither overlap nor are empty.

    Open is at most one row, and it says what the agent is.
    """
    agents, now = AgentRepository(store.engine), NOW
    with store.engine.begin() as connection:
        connection.execute(text("DELETE FROM agent_schedules"))
        connection.execute(text("DELETE FROM agents"))
    agents.sync([spec("a")], "file", now)
    for step, seconds in steps:
        now += timedelta(seconds=seconds)
        match step.split():
            case ["sync", "none"]:
                agents.sync([], "file", now)
            case ["sync", "paused"]:
                agents.sync([spec("a", paused=True)], "file", now)
            case ["sync", interval]:
                agents.sync([spec("a", interval_s=float(interval), timeout_s=1.0)], "file", now)
            case [switch] if agents.get("a").state != "retired":
                (agents.pause if switch == "pause" else agents.resume)("a", now)
    rows, agent = schedules(store, "a"), agents.get("a")
    ends = [row[1] for row in rows if row[1] is not None]

    assert all(end > row[0] for row, end in zip(rows, ends, strict=False))
    assert all(end <= row[0] for end, row in zip(ends, rows[1:], strict=False))
    if agent.state == "retired":
        assert len(ends) == len(rows)
    else:
        assert len(ends) == len(rows) - 1
        offset = slot_offset_s("a", agent.spec.interval_s)
        assert rows[-1][2:] == (agent.spec.interval_s, offset, agent.state)


def test_fingerprint_follows_what_is_polled(agents: AgentRepository, store: Store) -> None:
    """It changes with every change of what is to be polled, and with nothing else."""
    steps: list[Callable[[], object]] = [
        lambda: agents.sync([spec("a")], "file", NOW),
        lambda: agents.sync([spec("a", labels={"x": "y"})], "file", NOW),
        lambda: agents.sync([spec("a", options={"method": "GET"})], "file", NOW),
        lambda: agents.sync([spec("a", interval_s=30.0)], "file", NOW),
        lambda: agents.pause("a", NOW),
        lambda: agents.sync([spec("b")], "file", NOW),
    ]
    seen = [agents.fingerprint()]
    for step in steps:
        step()
        seen.append(agents.fingerprint())
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE agents SET status = 'healthy', status_reason = 'x'"))

    assert len(set(seen)) == len(steps) + 1
    assert agents.fingerprint() == seen[-1]


def test_add_get_retire(agents: AgentRepository) -> None:
    """An agent added by hand is of source ``api``, and comes back with its id when it is added again."""
    added = agents.add(spec("a", source="file"), NOW)
    retired = agents.retire("a", NOW + MINUTE)
    again = agents.retire("a", NOW + 2 * MINUTE)
    back = agents.add(spec("a", rise=2), NOW + 3 * MINUTE)

    assert added.spec.source == "api"
    assert (retired.state, retired.retired_at) == ("retired", NOW + MINUTE)
    assert again == retired
    assert (back.id, back.state, back.spec.rise, back.created_at) == (added.id, "active", 2, NOW)
    assert agents.get("a") == back


def test_add_refuses_what_is_there(agents: AgentRepository) -> None:
    """A name that is taken is an error that says where it is taken."""
    agents.sync([spec("by-file")], "file", NOW)
    agents.add(spec("by-hand"), NOW)

    with pytest.raises(DuplicateName, match="there already: it comes from the settings file"):
        agents.add(spec("by-file"), NOW)
    with pytest.raises(DuplicateName, match="there already: it comes from the database"):
        agents.add(spec("by-hand"), NOW)
    with pytest.raises(SettingsError, match="daemons' own"):
        agents.add(spec("fleetpulse/main"), NOW)


def test_add_refuses_commands_and_files(agents: AgentRepository) -> None:
    """Whoever may write to the database must not be able to run a command on the collector's machine."""
    with pytest.raises(SettingsError, match="write access to the database"):
        agents.add(spec("a", probe="command", endpoint="id"), NOW)
    with pytest.raises(SettingsError, match="write access to the database"):
        agents.add(spec("a", options={"pid_file": "/etc/shadow"}), NOW)

    assert agents.sync([spec("a", probe="command", endpoint="id")], "file", NOW).added == ("a",)


def test_retire_refuses_an_agent_of_the_file(agents: AgentRepository) -> None:
    """It would come back with the next sync: the message says where to remove it."""
    agents.sync([spec("a")], "file", NOW)
    with pytest.raises(SettingsError, match="comes from the settings file: remove it there"):
        agents.retire("a", NOW)

    assert agents.get("a").state == "active"


def test_unknown_name_suggests_a_known_one(agents: AgentRepository) -> None:
    """A slip of the finger is answered with the name that was meant."""
    agents.sync([spec("worker-one"), spec("gateway")], "file", NOW)

    for method in (agents.pause, agents.resume, agents.retire):
        with pytest.raises(StorageError, match='no agent "worker-oen": did you mean worker-one'):
            method("worker-oen", NOW)
    with pytest.raises(StorageError, match='"zzz": see "fleetpulse agents list"'):
        agents.get("zzz")


def test_pause_of_a_retired_agent_is_refused(agents: AgentRepository) -> None:
    """A retired agent has no slots that could be paused."""
    agents.add(spec("a"), NOW)
    agents.retire("a", NOW)

    with pytest.raises(StorageError, match="is retired"):
        agents.pause("a", NOW)
    with pytest.raises(StorageError, match="is retired"):
        agents.resume("a", NOW)


def test_syncs_at_once_agree(agents: AgentRepository, database_url: str) -> None:
    """Daemon and command line that register the same agents at the same moment both succeed, once."""
    wanted = [spec(f"agent-{number}") for number in range(40)]
    barrier = threading.Barrier(4)

    def work() -> SyncResult:
        mine = open_store(database_url)
        try:
            barrier.wait(timeout=60)
            return AgentRepository(mine.engine).sync(wanted, "file", NOW)
        finally:
            mine.close()

    with ThreadPoolExecutor(4) as pool:
        results = [each.result(timeout=60) for each in [pool.submit(work) for _ in range(4)]]

    assert sorted(len(result.added) for result in results) == [0, 0, 0, 40]
    assert len(agents.list()) == 40


def test_sync_of_many(agents: AgentRepository, store: Store) -> None:
    """Two thousand agents are registered, changed and retired, each with one open row while it lives."""
    wanted = [spec(f"agent-{number}") for number in range(2000)]
    open_rows = "SELECT count(*) FROM agent_schedules WHERE to_ts IS NULL"
    agents.sync(wanted, "file", NOW)
    assert store.query(open_rows).rows == [(2000,)]
    result = agents.sync([replace(each, interval_s=30.0) for each in wanted[1:]], "file", NOW + MINUTE)

    assert (len(result.changed), result.retired) == (1999, ("agent-0",))
    assert store.query(open_rows).rows == [(1999,)]
    assert store.query("SELECT count(*) FROM agent_schedules").rows == [(3999,)]


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/none", "sqlite:////no-such-folder/none.db"])
def test_unreachable_database_is_transient(url: str) -> None:
    """A database that is away is an error of storage that a daemon can wait out."""
    store = open_store(url)
    try:
        with pytest.raises(TransientStorageError, match=r"reading agents failed|there is no folder"):
            AgentRepository(store.engine).list()
    finally:
        store.close()
