"""
Arguments that make no sense, of every public call: an error of ours that names them, the same on every engine, and
nothing written.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from storage.client_rows import HealthCheck, Sample
from storage.errors import IllegalTransition, InputError, SettingsError, StorageError, UnknownName
from storage.model import AgentSpec
from storage.models import Base
from storage.repositories import AgentRepository, MessageSpec, TaskRepository, TaskSpec, WorkflowSpec
from storage.service import PersistenceService
from storage.store import Store

pytestmark = pytest.mark.each_kind

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
#: What says that an argument makes no sense; above all none that may be tried again.
REFUSALS = (InputError, UnknownName, SettingsError, IllegalTransition)

Values = tuple[object, ...]

#: More digits than Python writes.
HUGE = 10**5_000
NAMES: Values = (None, 5, "", " a", "a\0", "\ud800", "x" * 300, b"a", ["a"], {"a": 1}, HUGE)
TEXTS: Values = (None, 5, "a\0", "\ud800", ["a"], HUGE)
IDS: Values = (None, True, 0, -1, 1.0, 2**70, "a\0", [1], HUGE)
WORKFLOWS: Values = (None, True, 0, 1.5, 2**70, "", "a\0", "\ud800", ["nightly"], HUGE)
STATES: Values = (None, 5, "", "done", "\ud800", ["pending"], {}, HUGE)
MOMENTS: Values = (
    *(0, False, "", [], 5, "now", NOW.date(), NOW.replace(tzinfo=None)),
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=5))),
)
INTEGERS: Values = (None, True, "1", 1.5, 2**31, HUGE, [1])
JSON: Values = (object(), math.nan, HUGE, "a\0", "\ud800", {1: 2}, {"a": {"b": b"c"}}, (1, 2), {1}, "x" * 1_000_001)
OBJECTS: Values = (None, 5, False, "ab", [], {5: {}}, {"a": {"b": math.nan}}, {"a": {1: 2}}, {"a\0": {}}, {"a": HUGE})
SECONDS: Values = (None, True, "15", 0, math.nan, math.inf, Decimal(15), HUGE, [15])
COUNTS: Values = (None, True, "1", 1.5, 0, 1_001, HUGE)
LEASES: Values = (None, True, 5, "5m", timedelta(0), timedelta.max, HUGE)
SPECS: Values = (None, 5, "ab", b"ab", {}, {"a": 1}, [{}], [None], ["a"], HUGE)

#: What makes no sense of a parameter; ``None`` does where it is the default.
WRONG: dict[str, Values] = {
    **dict.fromkeys(("name", "agent", "sender", "recipient", "type", "capability"), NAMES),
    **dict.fromkeys(("task_id", "message_id", "task"), IDS),
    **dict.fromkeys(("status", "state", "direction", "kind"), STATES),
    **dict.fromkeys(("at", "since", "due_at"), MOMENTS),
    **dict.fromkeys(("priority", "max_attempts", "version"), INTEGERS),
    **dict.fromkeys(("payload", "result"), JSON),
    "details": OBJECTS,
    "capabilities": (*OBJECTS, {"a": 5}),
    **dict.fromkeys(("interval_s", "timeout_s"), SECONDS),
    **dict.fromkeys(("rise", "fall"), COUNTS),
    **dict.fromkeys(("lease", "duration"), LEASES),
    **dict.fromkeys(("specs", "checks", "samples"), SPECS),
    **dict.fromkeys(("reason", "credential", "endpoint"), TEXTS),
    "workflow": WORKFLOWS,
    "host": (None, 5, "", "a\0", "\ud800", b"a", ["a"], HUGE),
    "limit": (None, True, 0, -1, 10_001, 1.0, "5", [5], HUGE),
    "after": (True, -1, 1.0, 2**70, "x", [1], HUGE),
    "include_retired": (None, 0, 1, "yes", HUGE),
    "probe": (5, "", "icmp", [], False, HUGE),
    "labels": (5, False, "", [], {"a": 1}, {1: "a"}, HUGE),
    "options": (5, False, "", [], {"a": object()}, {1: 2}, {"a": {1: 2}}, {"a": "\0"}, HUGE),
    "depends_on": (None, 5, True, "a", b"a", {}, [None], [True], ["a\0"], [["a"]], [HUGE], iter(["a"]), HUGE),
    "subtasks": (None, 5, "a", b"a", {}, [None], ["a\0"], [["a"]], [HUGE], iter(["a"]), HUGE),
    "types": (5, True, "a", b"a", {}, [None], ["a\0"], ["\ud800"], [["a"]], [HUGE], HUGE),
    "step": (None, True, 0, 1.0, "", "a\0", "\ud800", ["outline"], HUGE),
    "outcome": (None, True, 99, "fine", "\ud800", ["healthy"], HUGE),
    "latency_ms": (True, -1, "1", b"1", [1], HUGE),
    "http_status": (None, True, -1, 1_000, "200", 1.0, HUGE),
    "values": (None, 5, False, "m", [], {"": 1.0}, {5: 1.0}, {"m": None}, {"m": True}, {"m": "1"}, {"m": HUGE}),
    "units": (5, False, "", [], {"other": "ms"}, {"m": 5}, {5: "ms"}, HUGE),
}
#: The same of single calls, where it is something else.
ELSEWHERE: Mapping[tuple[str, str], Values] = {
    # To everybody, and without an end.
    ("log_message", "recipient"): NAMES[1:],
    ("assign_task", "lease"): LEASES[1:],
    ("extend_lease", "lease"): (None, 5, True, "x", str(uuid4()), HUGE),
    ("update_task_status", "lease"): (5, True, "x", str(uuid4()), HUGE),
    ("add_dependency", "depends_on"): (None, True, 0, 1.0, 2**70, "", "a\0", "\ud800", ["draft"], HUGE),
    ("register_agents", "capabilities"): (5, False, "ab", [], {"nobody": {}}, {5: {}}),
    # Words for people are made fit to be stored.
    ("log_health_check", "reason"): (None, 5, ["a"], HUGE),
}


@pytest.fixture
def service(store: Store) -> Iterator[PersistenceService]:
    """Return a service with agents ``ann`` and ``bob``, and a workflow ``nightly`` with a task, a step and a message."""
    with PersistenceService(store, clock=lambda: NOW) as found:
        found.register_agents([AgentSpec(name="ann"), AgentSpec(name="bob")], capabilities={"ann": {"write": {"n": 1}}})
        found.create_workflow("nightly")
        found.create_task("write", name="draft", workflow="nightly", subtasks=["outline"])
        found.create_task("write", name="final", workflow="nightly")
        found.log_message("ann", "bob", "note", workflow="nightly")
        yield found


def usual(lease: UUID) -> dict[str, dict[str, Any]]:
    """Return arguments that each call needs, of which the others make sense."""
    workflow, task, agent, message = {"workflow": "nightly"}, {"task_id": 1}, {"name": "ann"}, {"message_id": 1}
    return {
        "register_agent": {"name": "new"},
        "register_agents": {"specs": []},
        "update_agent_status": agent | {"status": "active"},
        "get_agent_info": agent,
        "get_all_agents": {},
        "set_agent_capabilities": agent | {"capabilities": {}},
        "add_agent_capability": agent | {"capability": "sing"},
        "remove_agent_capability": agent | {"capability": "write"},
        "heartbeat": agent,
        "create_task": {"type": "write", **workflow},
        "create_tasks": {"specs": []},
        **dict.fromkeys(("get_task", "get_subtasks", "get_dependencies", "get_dependents"), task),
        **dict.fromkeys(("task_history", "task_assignments", "retry_task"), task),
        **{name: {} for name in ("get_tasks", "get_failed_tasks", "ready_tasks", "recover_tasks")},
        "get_workflow_tasks": workflow,
        "claim_next_task": {"agent": "ann"},
        "assign_task": task | {"agent": "ann"},
        "extend_lease": task | {"lease": lease},
        "update_task_status": task | {"status": "cancelled"},
        "add_subtask": task | {"name": "new"},
        "update_subtask_status": task | {"step": "outline", "status": "running"},
        "add_dependency": {"task_id": 2, "depends_on": 1},
        "create_workflow": {"name": "new"},
        "create_workflows": {"specs": []},
        "get_workflow": workflow,
        "get_workflows": {},
        "update_workflow_status": workflow | {"status": "running"},
        "cancel_workflow": workflow,
        "workflow_history": workflow,
        "log_message": {"sender": "ann", "recipient": "bob", "type": "note"},
        "log_messages": {"specs": []},
        "get_message": message,
        "update_message_status": message | {"status": "delivered"},
        "get_agent_messages": {"agent": "ann"},
        "get_workflow_messages": workflow,
        "message_history": message,
        "log_health_check": {"agent": "ann", "outcome": "healthy"},
        "log_health_checks": {"checks": []},
        "update_agent_metrics": {"agent": "ann", "values": {"m": 1.0}},
        "log_system_metrics": {"host": "box", "values": {"m": 1.0}},
        "log_samples": {"samples": []},
    }


def written(store: Store) -> dict[str, list[str]]:
    """Return what stands in every table."""
    tables = (*Base.metadata.tables, "health_checks", "agent_metrics", "system_metrics")
    return {table: sorted(map(repr, store.query(f"SELECT * FROM {table}").rows)) for table in tables}  # noqa: S608  # ours


def wrong_values(parameter: inspect.Parameter, values: Values) -> list[object]:
    """Return those of *values* that are not the default of *parameter*, which makes sense."""
    default = parameter.default
    return [value for value in values if type(value) is not type(default) or value != default]


def in_words(call: str, parameter: str, value: object) -> str:
    """Return a call as a message shows it."""
    return f"{call}({parameter}={'HUGE' if value is HUGE else ascii(value)[:60]})"


def refused(call: Callable[..., object], **arguments: object) -> str:
    """Return what is wrong with the way in which *call* refuses *arguments*; empty where nothing is."""
    try:
        answer = call(**arguments)
    except REFUSALS as exc:
        said = str(exc)
        return "" if said.isprintable() and len(said) < 500 else f"says {said[:100]!a}"
    except Exception as exc:  # noqa: BLE001  # what else comes is told with the rest
        return f"raises {type(exc).__name__}: {str(exc)[:100]!a}"
    return f"answers {answer!r}"[:100]


def test_every_argument_of_every_call_is_looked_at(service: PersistenceService, store: Store) -> None:
    """Whatever makes no sense is refused, whichever argument it is, by an error for people; no row has changed."""
    calls = usual(uuid4())
    public = {
        name for name, _ in inspect.getmembers(PersistenceService, inspect.isfunction) if not name.startswith("_")
    }
    assert calls.keys() == public - {"close"}
    before = written(store)
    faults = [
        f"{in_words(name, parameter.name, wrong)} {fault}"
        for name, arguments in calls.items()
        for parameter in inspect.signature(getattr(service, name)).parameters.values()
        for wrong in wrong_values(parameter, ELSEWHERE.get((name, parameter.name), WRONG[parameter.name]))
        if (fault := refused(getattr(service, name), **arguments | {parameter.name: wrong}))
    ]

    assert faults == []
    assert written(store) == before


def test_every_field_of_every_specification_is_looked_at(service: PersistenceService, store: Store) -> None:
    """What is handed over by the dozen is looked at as closely, and one that makes no sense keeps the others out."""
    before = written(store)
    checked: list[tuple[Callable[..., object], type, dict[str, Any]]] = [
        (service.register_agents, AgentSpec, {"name": "new"}),
        (service.create_tasks, TaskSpec, {"type": "write", "workflow": "nightly"}),
        (service.create_workflows, WorkflowSpec, {"name": "new"}),
        (service.log_messages, MessageSpec, {"sender": "ann", "type": "note"}),
        (service.log_health_checks, HealthCheck, {"agent": "ann", "at": NOW, "outcome": "healthy"}),
        (service.log_samples, Sample, {"agent": "ann", "metric": "m", "value": 1.0, "at": NOW}),
    ]
    more: dict[str, Values] = {
        "value": (None, True, "1", b"1", HUGE),
        "metric": (None, 5, "", ["m"], HUGE),
        "unit": (None, 5, ["ms"]),
        "paused": (None, 0, 1.0, "no"),
        "agent": (None, 5, "", "a\0", ["ann"], HUGE),
        "reason": (None, 5, ["a"]),
        # Set by whoever registers it.
        "source": (),
    }
    faults = []
    for call, spec, given in checked:
        [several] = inspect.signature(call).parameters.keys() - {"capabilities"}
        for parameter in inspect.signature(spec).parameters.values():
            for wrong in wrong_values(parameter, (WRONG | more)[parameter.name]):
                made = [spec(**given), spec(**given | {parameter.name: wrong})]
                if fault := refused(call, **{several: made}):
                    faults.append(f"{in_words(spec.__name__, parameter.name, wrong)} {fault}")

    assert faults == []
    assert written(store) == before


def test_agent_without_values_has_to_be_there(service: PersistenceService) -> None:
    """No values are nothing to write, of an agent that is there."""
    assert service.update_agent_metrics("ann", {}).accepted == 0
    with pytest.raises(UnknownName, match='there is no agent "nobody"'):
        service.update_agent_metrics("nobody", {})


def test_every_list_begins_at_none_and_zero(service: PersistenceService) -> None:
    """``None``, which the last page says, is the start of every list, and so is zero."""
    service.assign_task(1, "ann")
    service.update_task_status(1, "failed")
    lists: list[Callable[..., object]] = [
        service.get_all_agents,
        service.get_workflows,
        service.get_tasks,
        lambda after: service.get_workflow_tasks("nightly", after=after),
        service.get_failed_tasks,
        lambda after: service.get_agent_messages("bob", after=after),
        lambda after: service.get_workflow_messages("nightly", after=after),
    ]
    for ask in lists:
        found = [[row.name if isinstance(row, Base) else row for row in ask(after=start)] for start in (None, 0)]  # type: ignore[attr-defined]  # pages

        assert found[0] == found[1] != []


def test_moments_of_other_zones_are_what_they_are(service: PersistenceService) -> None:
    """A moment of another zone is kept as the moment that it is, up to the ends of the calendar."""
    east = timezone(timedelta(hours=5))
    for due in (NOW.astimezone(east), datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
        assert service.get_task(service.create_task("write", due_at=due).id).due_at == due
    service.heartbeat("ann", NOW.astimezone(east))
    assert service.get_agent_info("ann").heartbeat_at == NOW
    with pytest.raises(
        InputError, match=r"^due_at of a task of type write 9999-.* is out of range, expected the years"
    ):
        service.create_task("write", due_at=datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))))


def test_message_names_what_was_meant(service: PersistenceService) -> None:
    """Offender, what was found and what was expected stand in the message."""
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: service.get_workflow_tasks(None), r"no workflow None: expected its name, or the id that"),  # type: ignore[arg-type]  # here and below
        (lambda: service.create_tasks([{"type": "a"}]), r"specs\[0\] is {'type': 'a'}, expected TaskSpec"),  # type: ignore[list-item]
        (lambda: service.get_tasks(type="a\0"), r"type is 'a\\x00', expected 1 to 200 characters"),
        (lambda: service.get_tasks(after="x"), "after is 'x', expected a whole number from 0"),  # type: ignore[arg-type]
        (lambda: service.claim_next_task("ann", ["a", 5]), r"types\[1\] is 5, expected text"),  # type: ignore[list-item]
        (lambda: service.register_agent("new", rise=1.5), 'agent "new": rise is 1.5, expected 1 to 1000'),  # type: ignore[arg-type]
        (lambda: service.get_task(HUGE), "there is no task a value of type int: expected the id"),
        (lambda: service.update_agent_metrics("ann", {"m": 1}, at=0), "moment is 0, expected an aware datetime in UTC"),  # type: ignore[arg-type]
    ]
    for call, words in calls:
        with pytest.raises((StorageError, SettingsError), match=words):
            call()


# ---------------------------------------------------------------- what Python takes for equal


def test_true_is_not_one(service: PersistenceService, store: Store) -> None:
    """1, 1.0 and true are three JSON values: each is written and read, alone, among many and over another one."""
    values: Values = (1, True, 1.0, [1], [True])
    for value in values:
        service.add_agent_capability("ann", "gen", {"stream": value})
        assert repr(service.get_agent_info("ann").capabilities["gen"]) == repr({"stream": value})
    service.register_agents([AgentSpec(name=f"a{k}", options={"x": value}) for k, value in enumerate(values)])
    for k, value in enumerate(values):
        assert repr(service.get_agent_info(f"a{k}").record.spec.options) == repr({"x": value})
    agents = AgentRepository(store.engine)
    for value in values:
        spec = AgentSpec(name="filed", endpoint="http://127.0.0.1/", options={"x": value, "n": {"b": 1, "a": 2}})
        synced = agents.sync([spec], "file", NOW)
        assert synced.changed + synced.added == ("filed",)
        assert agents.sync([spec], "file", NOW).unchanged == ("filed",)
        assert repr(agents.get("filed").spec.options["x"]) == repr(value)


# ---------------------------------------------------------------- repositories


def test_clocks_that_tell_no_moment_are_refused(store: Store) -> None:
    """What a clock of the caller's own says is looked at like an argument."""
    before = written(store)
    with PersistenceService(store, clock=lambda: NOW.replace(tzinfo=None)) as service:
        for call in (
            lambda: service.register_agent("ann"),
            lambda: service.create_task("write"),
            lambda: service.create_workflow("nightly"),
            lambda: service.ready_tasks(),
            lambda: service.recover_tasks(),
            lambda: service.heartbeat("ann", NOW),
        ):
            with pytest.raises(InputError, match="moment 2026-03-10T12:00:00 has no time zone"):
                call()
    with pytest.raises(InputError, match='source of agents is "x", expected one of file, api'):
        AgentRepository(store.engine).sync([], "x", NOW)
    with pytest.raises(UnknownName, match="there is no workflow True"):
        TaskRepository(store.engine).list(workflow=True)

    assert written(store) == before
