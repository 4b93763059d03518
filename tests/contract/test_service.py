"""
The service layer: every call in its good case and with bad input, from several threads, and nothing half-written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from storage.client_rows import HealthCheck, Sample
from storage.database import DatabaseManager
from storage.errors import (
    DependencyCycle,
    DuplicateName,
    FleetpulseError,
    IllegalTransition,
    InputError,
    LeaseLost,
    SettingsError,
    StaleVersion,
    StorageError,
    UnknownName,
)
from storage.model import AgentSpec, Outcome
from storage.repositories import AgentRepository, MessageSpec, TaskSpec, WorkflowSpec
from storage.service import PersistenceService
from storage.store import Store

pytestmark = pytest.mark.each_kind

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

#: Every table that calls write, with those of the time series.
TABLES = (
    "agents", "agent_schedules", "agent_capabilities", "agent_heartbeats", "hosts", "metrics", "reasons",
    "workflows", "workflow_events", "tasks", "task_events", "task_assignments", "task_dependencies", "subtasks",
    "messages", "message_events", "health_checks", "agent_metrics", "system_metrics", "marks", "ingest_batches",
)  # fmt: skip


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return the clock of the service."""
    return Clock()


@pytest.fixture
def service(store: Store, clock: Clock) -> Iterator[PersistenceService]:
    """Return a service with agents ``ann`` and ``bob``, and a workflow ``nightly`` with a task of two steps."""
    with PersistenceService(store, clock=clock) as found:
        found.register_agent("ann", type="llm", capabilities={"write": {"tokens": 8_000}, "read": {}})
        found.register_agent("bob", type="worker", endpoint="http://127.0.0.1/health")
        found.create_workflow("nightly", type="report")
        found.create_task("write", name="draft", workflow="nightly", subtasks=["outline", "text"])
        yield found


def counts(store: Store) -> dict[str, object]:
    """Return the number of rows of each table, and the versions of what has one."""
    found = {
        table: store.query(f"SELECT count(*) FROM {table}").rows[0][0]  # noqa: S608  # names of our own
        for table in TABLES
    }
    for table in ("workflows", "tasks", "messages"):
        query = f"SELECT coalesce(sum(version), 0) FROM {table}"  # noqa: S608  # as above
        found[f"{table}.version"] = int(str(store.query(query).rows[0][0]))
    states = store.query("SELECT name, state FROM agents ORDER BY name").rows
    return {**found, "states": [tuple(row) for row in states]}


# ---------------------------------------------------------------- agents


def test_agent_is_registered_and_looked_up(service: PersistenceService) -> None:
    """An agent without an endpoint speaks for itself; what was said of it comes back, with what it can do."""
    ann, bob = service.get_agent_info("ann"), service.get_agent_info("bob")

    assert (ann.record.spec.probe, ann.record.spec.type, ann.record.spec.source) == ("heartbeat", "llm", "api")
    assert ann.capabilities == {"read": {}, "write": {"tokens": 8_000}}
    assert (ann.record.state, ann.record.status, ann.heartbeat_at, ann.record.created_at) == (
        "active",
        "unknown",
        None,
        NOW,
    )
    assert (bob.name, bob.record.spec.probe, bob.record.spec.endpoint) == ("bob", "http", "http://127.0.0.1/health")
    quick = service.register_agent("quick", interval_s=2, labels={"zone": "é"}, options={"a": [1]}, rise=2, fall=3)
    assert (quick.spec.timeout_s, quick.spec.labels, quick.spec.rise, quick.spec.fall) == (2, {"zone": "é"}, 2, 3)
    assert service.get_agent_info("quick").record == quick


def test_agents_in_bulk_are_as_single_ones(service: PersistenceService, store: Store) -> None:
    """Agents of one call have rows, schedules and capabilities as if each had come alone, whatever they share."""
    specs = [
        AgentSpec(name="x", type="t", labels={"k": "1"}),
        AgentSpec(name="y", type="t", endpoint="127.0.0.1:80", probe="tcp", labels={"k": "2"}, paused=True),
        AgentSpec(name="z", type="u", interval_s=60, options={"a": None}),
    ]
    made = service.register_agents(specs, capabilities={"z": {"read": {"n": 1}}})

    assert [record.spec.name for record in made] == ["x", "y", "z"]
    assert [record.spec.probe for record in made] == ["heartbeat", "tcp", "heartbeat"]
    assert [service.get_agent_info(name).record for name in "xyz"] == list(made)
    assert service.get_agent_info("z").capabilities == {"read": {"n": 1}}
    schedules = store.query(
        "SELECT a.name, s.interval_s, s.state FROM agent_schedules AS s JOIN agents AS a ON a.id = s.agent_id"
        " WHERE s.to_ts IS NULL ORDER BY a.name"
    ).rows
    assert [tuple(row) for row in schedules] == [
        ("ann", 15.0, "active"),
        ("bob", 15.0, "active"),
        ("x", 15.0, "active"),
        ("y", 15.0, "paused"),
        ("z", 60.0, "active"),
    ]
    assert service.register_agents([]) == []


def test_more_agents_than_a_statement_lists(service: PersistenceService) -> None:
    """Thousands are registered, looked for by name and listed as a few are."""
    specs = [AgentSpec(name=f"many-{k}", type="many") for k in range(1_100)]
    service.register_agents(specs, capabilities={f"many-{k}": {"count": {"k": k}} for k in (0, 1_099)})
    with pytest.raises(DuplicateName, match='"many-1099" is there already'):
        service.register_agents([AgentSpec(name=f"more-{k}") for k in range(1_100)] + specs[-1:])
    listed = service.get_all_agents()

    assert [info.name for info in listed] == ["ann", "bob", *(spec.name for spec in specs)]
    assert (listed[2].capabilities, listed[3].capabilities) == ({"count": {"k": 0}}, {})
    assert listed[-1].capabilities == {"count": {"k": 1_099}}


def test_administrative_state_is_set(service: PersistenceService, clock: Clock) -> None:
    """Paused, active and retired; one that is registered again has the id and the capabilities that it had."""
    assert service.update_agent_status("ann", "paused").state == "paused"
    assert service.update_agent_status("ann", "active").state == "active"
    clock.now += MINUTE
    gone = service.update_agent_status("ann", "retired")
    back = service.register_agent("ann", type="other")

    assert (gone.state, gone.retired_at) == ("retired", NOW + MINUTE)
    assert (back.id, back.state, back.spec.type) == (gone.id, "active", "other")
    assert set(service.get_agent_info("ann").capabilities) == {"read", "write"}


def test_agents_are_listed(service: PersistenceService) -> None:
    """Filters narrow the list, and pages follow each other in the order of registration."""
    service.register_agents([AgentSpec(name=f"w-{k}", type="worker") for k in range(5)])
    service.update_agent_status("w-1", "retired")
    service.update_agent_status("w-2", "paused")

    def names(**filters: Any) -> list[str]:
        return [info.name for info in service.get_all_agents(**filters)]

    assert names() == ["ann", "bob", "w-0", "w-2", "w-3", "w-4"]
    assert names(include_retired=True) == ["ann", "bob", "w-0", "w-1", "w-2", "w-3", "w-4"]
    assert (names(state="retired"), names(state="paused"), names(type="llm")) == (["w-1"], ["w-2"], ["ann"])
    assert (names(status="unknown", type="worker", state="active"), names(status="healthy")) == (
        ["bob", "w-0", "w-3", "w-4"],
        [],
    )
    assert (names(capability="write"), names(capability="fly")) == (["ann"], [])
    page = service.get_all_agents(limit=4)
    rest = service.get_all_agents(limit=4, after=page.after)
    assert [info.name for info in [*page, *rest]] == names()
    assert rest.after is None
    assert page[0].capabilities == {"read": {}, "write": {"tokens": 8_000}}


def test_capabilities_change(service: PersistenceService) -> None:
    """Set replaces all, add adds or replaces one, remove takes one away."""
    service.add_agent_capability("ann", "write", {"tokens": 9_000})
    service.add_agent_capability("ann", "sing")
    assert service.get_agent_info("ann").capabilities == {"read": {}, "sing": {}, "write": {"tokens": 9_000}}
    service.remove_agent_capability("ann", "read")
    assert set(service.get_agent_info("ann").capabilities) == {"sing", "write"}
    service.set_agent_capabilities("ann", {"write": {"tokens": 1}, "draw": {}})
    assert service.get_agent_info("ann").capabilities == {"draw": {}, "write": {"tokens": 1}}
    service.set_agent_capabilities("ann", {})
    assert service.get_agent_info("ann").capabilities == {}


def test_heartbeat_never_goes_back(service: PersistenceService, clock: Clock) -> None:
    """The latest moment counts, in whatever order heartbeats come in."""
    service.heartbeat("ann")
    service.heartbeat("ann", NOW - MINUTE)
    assert service.get_agent_info("ann").heartbeat_at == NOW
    clock.now += MINUTE
    service.heartbeat("ann")
    assert service.get_agent_info("ann").heartbeat_at == NOW + MINUTE
    assert service.get_all_agents()[0].heartbeat_at == NOW + MINUTE
    assert service.get_agent_info("bob").heartbeat_at is None


# ---------------------------------------------------------------- work


def test_task_goes_its_way(service: PersistenceService, clock: Clock) -> None:
    """Made with steps and dependencies, claimed for a lease, kept for longer, finished with a result: all in history."""
    draft = service.get_workflow_tasks("nightly")[0]
    check = service.create_task("read", name="check", workflow="nightly", depends_on=["draft"], payload={"n": 1})
    assert [task.name for task in service.ready_tasks()] == ["draft"]
    claimed = service.claim_next_task("ann", lease=MINUTE)
    assert claimed is not None
    assert claimed.lease is not None
    assert (claimed.id, claimed.state, claimed.lease_until, claimed.attempts) == (draft.id, "running", NOW + MINUTE, 1)
    assert service.claim_next_task("ann") is None
    clock.now += MINUTE / 2
    assert service.extend_lease(draft.id, claimed.lease, MINUTE).lease_until == NOW + 1.5 * MINUTE
    service.update_subtask_status(draft.id, "outline", "running")
    service.update_subtask_status(draft.id, 1, "completed", result=[1])
    service.add_subtask(draft.id, "review")
    assert [(step.name, step.state) for step in service.get_subtasks(draft.id)] == [
        ("outline", "completed"),
        ("text", "pending"),
        ("review", "pending"),
    ]
    done = service.update_task_status(draft.id, "completed", lease=claimed.lease, result={"words": 12})
    assert (done.state, done.result, done.lease) == ("completed", {"words": 12}, None)
    assert [task.name for task in service.ready_tasks(["read"])] == ["check"]
    assert [event.to_state for event in service.task_history(draft.id)] == ["pending", "running", "completed"]
    [attempt] = service.task_assignments(draft.id)
    assert (attempt.started_at, attempt.ended_at, attempt.outcome) == (NOW, clock.now, "completed")
    assert [task.id for task in service.get_dependencies(check.id)] == [draft.id]
    assert [task.id for task in service.get_dependents(draft.id)] == [check.id]


def test_task_of_a_dead_worker_is_recovered(service: PersistenceService, clock: Clock) -> None:
    """When a lease is over the task is pending again, and the worker that had it cannot finish it any more."""
    claimed = service.claim_next_task("ann", lease=MINUTE)
    assert claimed is not None
    clock.now += 2 * MINUTE
    assert service.recover_tasks().retried == (claimed.id,)
    with pytest.raises(LeaseLost):
        service.update_task_status(claimed.id, "completed", lease=claimed.lease)
    assigned = service.assign_task(claimed.id, "bob")
    assert (assigned.attempts, assigned.lease_until) == (2, clock.now + 5 * MINUTE)
    failed = service.update_task_status(claimed.id, "failed", lease=assigned.lease, reason="no paper")
    assert [task.id for task in service.get_failed_tasks(workflow="nightly", since=NOW)] == [failed.id]
    assert list(service.get_failed_tasks(since=clock.now + MINUTE)) == []
    again = service.retry_task(claimed.id, priority=1)
    assert (again.state, again.priority, list(service.get_failed_tasks())) == ("pending", 1, [])
    assert service.get_task(claimed.id).state == "pending"


def test_tasks_in_bulk_wait_for_each_other(service: PersistenceService) -> None:
    """Tasks of one call depend on each other by name, in whatever order they stand; a later dependency counts as well."""
    made = service.create_tasks(
        [
            TaskSpec(type="sum", name="total", workflow="nightly", depends_on=("part-1", "part-2")),
            *(TaskSpec(type="sum", name=f"part-{k}", workflow="nightly") for k in (1, 2)),
        ]
    )
    service.add_dependency(made[1].id, made[2].id)

    assert [task.name for task in service.ready_tasks(["sum"])] == ["part-2"]
    assert [task.name for task in service.get_workflow_tasks("nightly", type="sum", limit=2)] == ["total", "part-1"]
    assert [task.name for task in service.get_tasks(status="pending", type="write")] == ["draft"]


def test_workflow_goes_its_way(service: PersistenceService) -> None:
    """Its owner says what it is; cancelling it takes its open tasks along, and every state is kept."""
    service.create_workflows([WorkflowSpec(name="a", type="t"), WorkflowSpec(name="b", payload=[1])])
    running = service.update_workflow_status("nightly", "running", version=1)
    assert (running.state, running.started_at, running.version) == ("running", NOW, 2)
    claimed = service.claim_next_task("ann")
    cancelled = service.cancel_workflow("nightly", reason="not tonight")
    assert claimed is not None
    assert (cancelled.workflow.state, cancelled.workflow.reason, cancelled.tasks) == (
        "cancelled",
        "not tonight",
        (claimed.id,),
    )
    with pytest.raises(LeaseLost):
        service.update_task_status(claimed.id, "completed", lease=claimed.lease)
    assert [event.to_state for event in service.workflow_history(running.id)] == ["pending", "running", "cancelled"]
    assert [workflow.name for workflow in service.get_workflows(status="pending")] == ["a", "b"]
    assert [workflow.name for workflow in service.get_workflows(type="t")] == ["a"]
    assert service.get_workflow("b").payload == [1]


def test_messages_are_kept_and_read(service: PersistenceService) -> None:
    """Said, delivered and read; found from both ends and from the workflow that they are about."""
    said = service.log_message("ann", "bob", "handover", {"n": 1}, workflow="nightly", task=1)
    service.log_messages([MessageSpec(sender="bob", type="hello"), MessageSpec(sender="bob", type="hello")])
    delivered = service.update_message_status(said.id, "delivered", version=1)

    assert (delivered.state, delivered.delivered_at) == ("delivered", NOW)
    assert service.get_message(said.id) == delivered
    assert [message.type for message in service.get_agent_messages("ann")] == ["hello", "hello"]
    assert [message.id for message in service.get_agent_messages("ann", direction="sent")] == [said.id]
    assert [message.id for message in service.get_workflow_messages("nightly", status="delivered")] == [said.id]
    assert [event.to_state for event in service.message_history(said.id)] == ["pending", "delivered"]


# ---------------------------------------------------------------- time series


def test_measurements_go_the_way_of_the_collector_s(service: PersistenceService, store: Store) -> None:
    """Checks and samples are counted, marked and shown by the views, as what a collector saw is."""
    service.log_health_check("ann", "healthy", latency_ms=4.0, http_status=200)
    service.log_health_checks([HealthCheck(agent="bob", at=NOW, outcome=Outcome.TIMEOUT, reason="no answer")])
    service.update_agent_metrics("ann", {"tokens": 12, "cost": 0.5}, kind="counter", units={"tokens": "1"})
    service.log_system_metrics("host-1", {"load1": 0.25})
    many = service.log_samples([Sample(agent="bob", metric="depth", value=float(k), at=NOW) for k in range(3)])

    assert (many.accepted, dict(many.rejected)) == (3, {})
    checks = store.query(
        "SELECT a.name, h.healthy, h.timeout FROM health_1m AS h JOIN agents AS a ON a.id = h.agent_id ORDER BY a.name"
    ).rows
    assert [tuple(row) for row in checks] == [("ann", 1, 0), ("bob", 0, 1)]
    stored = counts(store)
    assert (stored["health_checks"], stored["agent_metrics"], stored["system_metrics"]) == (2, 5, 1)
    assert stored["ingest_batches"] == 5


def test_end_of_a_client_is_recorded(store: Store, clock: Clock) -> None:
    """A client that wrote measurements has a session under its name, which ends with it; no collector is meant by it."""
    with PersistenceService(store, clock=clock, name="notebook") as service:
        service.log_system_metrics("host-1", {"load1": 0.25})
        asked = "SELECT name, is_collector, ended_at IS NULL AS open FROM collector_sessions"
        types = {"is_collector": bool, "open": bool}
        assert [tuple(row) for row in store.query(asked, types=types).rows] == [("notebook", False, True)]
    assert [tuple(row) for row in store.query(asked, types=types).rows] == [("notebook", False, False)]
    with PersistenceService(store, clock=clock, name="idle"):
        pass
    assert len(store.query(asked).rows) == 1


# ---------------------------------------------------------------- bad input


def _bad(service: PersistenceService) -> list[tuple[Callable[[], object], type[FleetpulseError], str]]:
    """Return calls that must fail, with their error and words of it; each would change something else besides."""
    task = service.get_workflow_tasks("nightly")[0].id
    message = service.log_message("ann", "bob", "note").id
    good_agent, good_task = AgentSpec(name="new"), TaskSpec(type="write", name="new", workflow="nightly")
    naive = NOW.replace(tzinfo=None)
    big = "x" * 1_000_001
    return [
        # agents
        (lambda: service.register_agent("ann"), DuplicateName, 'agent "ann" is there already'),
        (lambda: service.register_agents([good_agent, AgentSpec(name="bob")]), DuplicateName, '"bob" is there already'),
        (lambda: service.register_agents([good_agent, good_agent]), DuplicateName, '"new" is there already: it stands'),
        (lambda: service.register_agents([good_agent, AgentSpec(name="")]), SettingsError, "name is ''"),
        (lambda: service.register_agent("new", probe="telepathy"), SettingsError, "probe is 'telepathy'"),
        (lambda: service.register_agent("new", interval_s=0), SettingsError, "interval is"),
        (lambda: service.register_agent("new", capabilities={"a": [1]}), InputError, "expected a dict"),  # type: ignore[dict-item]  # what a caller without types may say
        (lambda: service.register_agent("new", capabilities={"": {}}), InputError, "capability of agent"),
        (lambda: service.register_agents([good_agent], capabilities={"nw": {}}), UnknownName, "did you mean new"),
        (lambda: service.update_agent_status("ann", "healthy"), InputError, "is measured by the collector"),
        (lambda: service.update_agent_status("ann", "asleep"), InputError, "expected one of active, paused, retired"),
        (lambda: service.update_agent_status("anne", "paused"), UnknownName, "did you mean ann"),
        (lambda: service.get_agent_info("bo"), UnknownName, "did you mean bob"),
        (lambda: service.get_agent_info("b\0"), UnknownName, "there is no agent"),
        (lambda: service.get_all_agents(state="healthy"), InputError, 'state "healthy"'),
        (lambda: service.get_all_agents(status="active"), InputError, 'status "active"'),
        (lambda: service.get_all_agents(limit=0), InputError, "limit is 0"),
        (lambda: service.set_agent_capabilities("ann", {"a": {"x": NOW}}), InputError, "type datetime"),
        (lambda: service.add_agent_capability("nobody", "a"), UnknownName, "there is no agent"),
        (lambda: service.remove_agent_capability("ann", "reed"), UnknownName, "did you mean read"),
        (lambda: service.heartbeat("an"), UnknownName, "did you mean ann"),
        (lambda: service.heartbeat("ann", NOW + timedelta(hours=1)), InputError, "set the clock of its machine"),
        (lambda: service.heartbeat("ann", naive), StorageError, "no time zone"),
        # workflows
        (lambda: service.create_workflow("nightly"), DuplicateName, 'workflow "nightly" is there already'),
        (
            lambda: service.create_workflows([WorkflowSpec(name="new"), WorkflowSpec(name="nightly")]),
            DuplicateName,
            "nightly",
        ),
        (lambda: service.create_workflow("a\n"), InputError, "name"),
        (lambda: service.create_workflow("new", payload={"a": {1, 2}}), InputError, "type set"),
        (lambda: service.get_workflow("nigtly"), UnknownName, "did you mean nightly"),
        (
            lambda: service.update_workflow_status("nightly", "completed"),
            IllegalTransition,
            "from pending to completed",
        ),
        (lambda: service.update_workflow_status("nightly", "running", version=7), StaleVersion, "expected 7"),
        (lambda: service.cancel_workflow(99), UnknownName, "no workflow 99"),
        (lambda: service.get_workflows(status="done"), InputError, "done"),
        # tasks
        (lambda: service.create_task("write", name="draft", workflow="nightly"), DuplicateName, "draft"),
        (lambda: service.create_task("write", workflow="nigtly"), UnknownName, "did you mean nightly"),
        (lambda: service.create_task("write", payload=big), InputError, "1,000,000"),
        (lambda: service.create_task("write", due_at=naive), StorageError, "no time zone"),
        (lambda: service.create_tasks([good_task, TaskSpec(type="")]), InputError, "type"),
        (lambda: service.create_task("write", workflow="nightly", depends_on="ab"), InputError, "depends_on"),
        (lambda: service.create_task("write", subtasks="outline"), InputError, "subtasks"),
        (lambda: service.get_tasks(limit=None), InputError, "limit is None"),  # type: ignore[arg-type]  # on purpose
        (
            lambda: service.create_tasks([good_task, TaskSpec(type="a", workflow="nightly", depends_on=("no",))]),
            UnknownName,
            "no",
        ),
        (
            lambda: service.create_tasks(
                [
                    TaskSpec(type="a", name="p", workflow="nightly", depends_on=("q",)),
                    TaskSpec(type="a", name="q", workflow="nightly", depends_on=("p",)),
                ]
            ),
            DependencyCycle,
            "waits for",
        ),
        (lambda: service.add_dependency(task, task), DependencyCycle, "waits for"),
        (lambda: service.get_task(99), UnknownName, "no task 99"),
        (lambda: service.get_workflow_tasks("nigtly"), UnknownName, "did you mean nightly"),
        (lambda: service.get_workflow_tasks(99), UnknownName, "no workflow 99"),
        (lambda: service.get_workflow_tasks("nightly", agent="anne"), UnknownName, "did you mean ann"),
        (lambda: service.get_tasks(status="new"), InputError, "new"),
        (lambda: service.get_failed_tasks(limit=10_001), InputError, "limit is 10001"),
        (lambda: service.ready_tasks("write"), InputError, "write"),
        (lambda: service.update_task_status(task, "completed"), IllegalTransition, "from pending to completed"),
        (lambda: service.update_task_status(task, "cancelled", version=9), StaleVersion, "expected 9"),
        (lambda: service.update_task_status(task, "cancelled", reason="a\0"), InputError, "NUL"),
        (lambda: service.extend_lease(task, uuid4()), LeaseLost, "task"),
        (lambda: service.claim_next_task("anne"), UnknownName, "did you mean ann"),
        (lambda: service.claim_next_task("ann", lease=timedelta(0)), InputError, "lease"),
        (lambda: service.claim_next_task("ann", lease="5m"), InputError, "lease is '5m', expected a timedelta"),  # type: ignore[arg-type]  # on purpose
        (lambda: service.extend_lease(task, str(uuid4())), InputError, "expected the UUID"),  # type: ignore[arg-type]  # likewise
        (lambda: service.assign_task(task, "anne"), UnknownName, "did you mean ann"),
        (lambda: service.retry_task(task), IllegalTransition, "pending"),
        (lambda: service.add_subtask(task, "text"), DuplicateName, "text"),
        (lambda: service.update_subtask_status(task, "txt", "running"), UnknownName, "txt"),
        (lambda: service.update_subtask_status(task, "text", "completed"), IllegalTransition, "completed"),
        # messages
        (lambda: service.log_message("ann", "bo", "note"), UnknownName, "did you mean bob"),
        (lambda: service.log_message("ann", "bob", "note", big), InputError, "1,000,000"),
        (
            lambda: service.log_messages([MessageSpec(sender="ann", type="a"), MessageSpec(sender="anne", type="a")]),
            UnknownName,
            "did you mean ann",
        ),
        (lambda: service.update_message_status(message, "read"), IllegalTransition, "from pending to read"),
        (lambda: service.get_agent_messages("ann", status="new"), InputError, "new"),
        # time series
        (lambda: service.log_health_check("anne", "healthy"), UnknownName, "did you mean ann"),
        (lambda: service.log_health_check("ann", "happy"), InputError, "happy"),
        (lambda: service.log_health_check("ann", "healthy", at=naive), FleetpulseError, "time zone"),
        (
            lambda: service.log_samples(
                [Sample(agent="ann", metric="m", value=1, at=NOW), Sample(agent="x", metric="m", value=1, at=NOW)]
            ),
            UnknownName,
            "there is no agent",
        ),
        (lambda: service.update_agent_metrics("ann", {"m": 1.0}, units={"n": "ms"}), InputError, 'unit of "n"'),
        (lambda: service.log_system_metrics("", {"load1": 1.0}), InputError, "host"),
    ]


def test_bad_input_is_named_and_leaves_nothing(service: PersistenceService, store: Store) -> None:
    """Every bad call raises the error that says what was wrong, and no table has another row or version afterwards."""
    calls = _bad(service)
    before = counts(store)
    for call, error, words in calls:
        with pytest.raises(error, match=words):
            call()

    assert counts(store) == before


def test_retired_agent_does_nothing(service: PersistenceService, store: Store) -> None:
    """An agent that is retired neither beats nor works, and only registering it brings it back."""
    service.update_agent_status("ann", "retired")
    before = counts(store)
    for call in (
        lambda: service.heartbeat("ann"),
        lambda: service.claim_next_task("ann"),
        lambda: service.update_agent_status("ann", "active"),
    ):
        with pytest.raises(StorageError, match='agent "ann" is retired'):
            call()

    assert counts(store) == before


def test_agent_of_a_file_is_retired_there(service: PersistenceService, store: Store) -> None:
    """An agent that a settings file names would come back with the next sync, so that it cannot be retired here."""
    AgentRepository(store.engine).sync([AgentSpec(name="filed", endpoint="http://127.0.0.1/")], "file", NOW)
    with pytest.raises(SettingsError, match="comes from the settings file"):
        service.update_agent_status("filed", "retired")
    with pytest.raises(DuplicateName, match="it comes from the settings file"):
        service.register_agent("filed")

    assert service.update_agent_status("filed", "paused").state == "paused"


# ---------------------------------------------------------------- threads


def test_threads_share_one_service(service: PersistenceService, store: Store) -> None:
    """Threads that register, work, talk and measure through one service at once all get what they asked for, once."""
    service.create_tasks([TaskSpec(type="job") for _ in range(24)])
    start = threading.Barrier(4)

    def work(number: int) -> list[int]:
        start.wait()
        name = f"worker-{number}"
        service.register_agent(name)
        done: list[int] = []
        while (task := service.claim_next_task(name, ["job"])) is not None:
            service.heartbeat(name)
            service.log_message(name, "ann", "done", task.id, task=task.id)
            service.update_agent_metrics(name, {"jobs": 1}, kind="counter")
            service.update_task_status(task.id, "completed", lease=task.lease)
            done.append(task.id)
        return done

    with ThreadPoolExecutor(4) as pool:
        done = [each.result() for each in [pool.submit(work, number) for number in range(4)]]
    finished = sorted(task for each in done for task in each)

    assert finished == sorted(set(finished))
    assert len(finished) == 24
    assert sorted(message.payload for message in service.get_agent_messages("ann")) == finished
    assert counts(store)["agent_metrics"] == 24
    assert all(len(service.task_assignments(task)) == 1 for task in finished[:3])


def test_one_of_several_that_register_the_same_wins(service: PersistenceService) -> None:
    """Of threads that register agents of the same names one does, all of them, and the others are told."""
    start = threading.Barrier(3)
    names = [f"same-{k}" for k in range(5)]

    def register(reverse: bool) -> bool:
        start.wait()
        try:
            service.register_agents([AgentSpec(name=name) for name in sorted(names, reverse=reverse)])
        except DuplicateName:
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        won = [each.result() for each in [pool.submit(register, place == 1) for place in range(3)]]

    assert sorted(won) == [False, False, True]
    assert {info.name for info in service.get_all_agents()} >= set(names)


def test_service_of_a_manager_goes_by_the_database_s_clock() -> None:
    """A service takes a manager as well, and goes by the clock of its database."""
    with DatabaseManager("sqlite://") as manager:
        manager.create_schema()
        before = manager.store.now()
        with PersistenceService(manager) as service:
            created = service.register_agent("ann").created_at
        manager.check_schema()

        assert before - timedelta(seconds=1) <= created <= manager.store.now() + timedelta(seconds=1)
