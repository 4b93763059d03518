"""
Messages of agents: kept, found again, and followed from sent to read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from sqlalchemy import insert

from storage.errors import FleetpulseError, IllegalTransition, InputError, StaleVersion, StorageError, UnknownName
from storage.model import AgentSpec
from storage.repositories import AgentRepository, MessageRepository, MessageSpec, Page
from storage.repositories.message_pages import Direction
from storage.repositories.messages import MessageRecord
from storage.store import Store
from storage.transactions import writing
from storage.work_models import Task, Workflow

pytestmark = pytest.mark.each_kind

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


#: What is wrong with a message, the error about it, and words of that.
BAD: list[tuple[dict[str, Any], type[FleetpulseError], str]] = [
    ({"sender": "anne"}, UnknownName, 'there is no agent "anne": did you mean ann'),
    ({"recipient": "bo"}, UnknownName, 'there is no agent "bo": did you mean bob'),
    ({"recipient": "b\0b"}, UnknownName, "there is no agent"),
    ({"recipient": ""}, UnknownName, "there is no agent"),
    ({"workflow": "nightli"}, UnknownName, 'no workflow "nightli": did you mean nightly'),
    ({"workflow": 77}, UnknownName, "no workflow 77"),
    ({"workflow": 2**63}, UnknownName, "no workflow"),
    ({"task": 77}, UnknownName, "no task 77"),
    ({"task": -1}, UnknownName, "no task -1"),
    ({"type": ""}, InputError, "type of a message is"),
    ({"type": "a\nb"}, InputError, "type of a message is"),
    ({"payload": {"a": float("nan")}}, InputError, "payload"),
    ({"payload": {"at": NOW}}, InputError, "at at is of type datetime"),
    ({"payload": {1: "a"}}, InputError, "key"),
    ({"payload": "a\0"}, InputError, "NUL"),
    ({"payload": "x" * 1_000_001}, InputError, "expected at most 1,000,000"),
]


@pytest.fixture
def messages(store: Store) -> MessageRepository:
    """Return the messages of a fresh database with agents ``ann``, ``bob`` and ``cid``, and a workflow ``nightly``."""
    specs = [AgentSpec(name=name, endpoint="http://127.0.0.1/") for name in ("ann", "bob", "cid")]
    AgentRepository(store.engine).add_many(specs, NOW)
    with writing(store.engine).begin() as connection:
        connection.execute(insert(Workflow).values(name="nightly", type="report", created_at=NOW))
        connection.execute(insert(Task).values(type="write", created_at=NOW))
    return MessageRepository(store.engine)


def rows(store: Store) -> tuple[object, ...]:
    """Return how many messages and events there are."""
    [found] = store.query("SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM message_events)").rows
    return tuple(found)


def ids(page: Page[MessageRecord]) -> list[int]:
    """Return the ids on a page."""
    return [message.id for message in page]


def test_message_comes_back_as_it_was_said(messages: MessageRepository) -> None:
    """Everything that was handed over is there, in the answer and when it is read."""
    payload = {"text": "é\n☂", "parts": [1, 2.5, None, True], "nested": {"": []}}
    logged = messages.log("ann", "bob", "handover", payload, workflow="nightly", task=1, now=NOW)

    assert logged == MessageRecord(
        id=logged.id,
        sender="ann",
        recipient="bob",
        type="handover",
        state="pending",
        payload=payload,
        reason="",
        workflow_id=1,
        task_id=1,
        created_at=NOW,
        delivered_at=None,
        read_at=None,
        version=1,
    )
    assert messages.get(logged.id) == logged
    assert list(messages.of_agent("bob")) == [logged]
    assert [(event.from_state, event.to_state, event.ts) for event in messages.history(logged.id)] == [
        (None, "pending", NOW)
    ]


def test_payload_is_any_json(messages: MessageRepository) -> None:
    """A payload may be any JSON value; without one it is an empty object."""
    payloads: list[Any] = [None, {}, [], "text", 0, False, [None], {"a": {"b": [1]}}, -2.5]
    logged = messages.log_many([MessageSpec(sender="ann", type="note", payload=each) for each in payloads], NOW)

    assert [messages.get(message.id).payload for message in logged] == [{}, *payloads[1:]]


def test_many_messages_keep_their_order(messages: MessageRepository, store: Store) -> None:
    """Messages of one call get ascending ids in the order in which they were handed over."""
    logged = messages.log_many(
        [
            MessageSpec(sender="ann", recipient=None if k % 3 else "bob", type=f"t{k}", payload=k, workflow=1)
            for k in range(250)
        ],
        NOW,
    )

    assert [message.type for message in logged] == [f"t{k}" for k in range(250)]
    assert [message.id for message in logged] == sorted(message.id for message in logged)
    assert [messages.get(message.id) for message in logged[::100]] == logged[::100]
    assert rows(store) == (250, 250)
    assert messages.log_many([], NOW) == []


def test_bad_message_leaves_nothing_behind(messages: MessageRepository, store: Store) -> None:
    """One message of several that cannot be kept is named, and none of them is."""
    good: dict[str, Any] = {"sender": "ann", "recipient": "bob", "type": "note"}
    for changes, error, words in BAD:
        with pytest.raises(error, match=words):
            messages.log_many([MessageSpec(**good), MessageSpec(**{**good, **changes})], NOW)

    assert rows(store) == (0, 0)


def test_naive_moment_is_refused(messages: MessageRepository, store: Store) -> None:
    """A moment without a zone is an error before anything is written."""
    logged = messages.log("ann", "bob", "note", now=NOW)
    with pytest.raises(StorageError, match="no time zone"):
        messages.log("ann", "bob", "note", now=NOW.replace(tzinfo=None))
    with pytest.raises(StorageError, match="no time zone"):
        messages.set_state(logged.id, "delivered", now=NOW.replace(tzinfo=None))

    assert rows(store) == (1, 1)


def test_message_is_followed_to_its_end(messages: MessageRepository) -> None:
    """Each state leaves its moment and an event; a failure is remembered with its reason, and may be tried again."""
    message = messages.log("ann", "bob", "note", now=NOW).id
    messages.set_state(message, "delivered", now=NOW + SECOND)
    failed = messages.set_state(message, "failed", now=NOW + 2 * SECOND, reason="no room\nleft")
    again = messages.set_state(message, "pending", now=NOW + 3 * SECOND)
    messages.set_state(message, "delivered", now=NOW + 4 * SECOND)
    read = messages.set_state(message, "read", now=NOW + 5 * SECOND)

    assert (failed.state, failed.reason, failed.delivered_at) == ("failed", "no room\nleft", NOW + SECOND)
    assert (again.state, again.reason, again.delivered_at) == ("pending", "", None)
    assert (read.state, read.delivered_at, read.read_at, read.version) == (
        "read",
        NOW + 4 * SECOND,
        NOW + 5 * SECOND,
        6,
    )
    assert messages.get(message) == read
    assert [(event.from_state, event.to_state, event.reason) for event in messages.history(message)] == [
        (None, "pending", ""),
        ("pending", "delivered", ""),
        ("delivered", "failed", "no room\nleft"),
        ("failed", "pending", ""),
        ("pending", "delivered", ""),
        ("delivered", "read", ""),
    ]
    assert [event.ts for event in messages.history(message)] == [NOW + k * SECOND for k in range(6)]


def test_illegal_transition_changes_nothing(messages: MessageRepository, store: Store) -> None:
    """A message that was not delivered cannot be read; the message says from, to and what is allowed."""
    message = messages.log("ann", "bob", "note", now=NOW)
    with pytest.raises(
        IllegalTransition, match=r"message 1 \(note\) cannot go from pending to read, expected"
    ) as raised:
        messages.set_state(message.id, "read", now=NOW)
    with pytest.raises(IllegalTransition, match="cannot go from pending to done"):
        messages.set_state(message.id, "done", now=NOW)

    assert raised.value.allowed == ("delivered", "failed")
    assert messages.get(message.id) == message
    assert rows(store) == (1, 1)


def test_stale_version_is_refused(messages: MessageRepository) -> None:
    """Who has read an older version than there is changes nothing."""
    message = messages.log("ann", "bob", "note", now=NOW)
    messages.set_state(message.id, "delivered", now=NOW, version=1)
    with pytest.raises(StaleVersion, match="found version 2, expected 1"):
        messages.set_state(message.id, "read", now=NOW, version=1)

    assert messages.get(message.id).state == "delivered"


def test_unknown_message_is_named(messages: MessageRepository) -> None:
    """A number that no message has is an error of that kind, whatever is asked of it."""
    asks: list[Callable[[int], object]] = [
        messages.get,
        messages.history,
        lambda number: messages.set_state(number, "read", now=NOW),
    ]
    for number in (77, 0, -1, 2**63, True):
        for ask in asks:
            with pytest.raises(UnknownName, match="there is no message"):
                ask(number)


def test_directions_do_not_overlap(messages: MessageRepository) -> None:
    """Received, sent and both: each message once, newest first; what is said to all is received by all but its sender."""
    said = [("ann", "bob"), ("bob", "ann"), ("ann", None), ("bob", None), ("ann", "ann"), ("cid", "bob"), ("cid", None)]
    number = {pair: messages.log(pair[0], pair[1], "note", now=NOW).id for pair in said}

    def of(direction: Direction) -> list[tuple[str, str | None]]:
        found = ids(messages.of_agent("ann", direction=direction))
        assert found == sorted(found, reverse=True)
        return [pair for pair in reversed(said) if number[pair] in found]

    assert of("received") == [("cid", None), ("ann", "ann"), ("bob", None), ("bob", "ann")]
    assert of("sent") == [("ann", "ann"), ("ann", None), ("ann", "bob")]
    assert of("both") == [("cid", None), ("ann", "ann"), ("bob", None), ("ann", None), ("bob", "ann"), ("ann", "bob")]


def test_pages_follow_each_other(messages: MessageRepository) -> None:
    """Page by page everything is shown once, newest first, and the last page says that it is."""
    everybody = ("ann", "bob", "cid", None)
    messages.log_many(
        [MessageSpec(sender=everybody[k % 3] or "", recipient=everybody[k // 3 % 4], type="note") for k in range(60)],
        NOW,
    )
    for direction in get_args(Direction):
        whole = ids(messages.of_agent("ann", direction=direction))
        found: list[int] = []
        page = messages.of_agent("ann", direction=direction, limit=7)
        found += ids(page)
        while page.after is not None:
            page = messages.of_agent("ann", direction=direction, limit=7, after=page.after)
            found += ids(page)

        assert len(whole) > 14
        assert found == whole
        assert messages.of_agent("ann", direction=direction, limit=len(whole)).after is None


def test_filters_narrow(messages: MessageRepository) -> None:
    """State, type and workflow narrow what is listed, alone and together."""
    first = messages.log("bob", "ann", "ask", workflow="nightly", now=NOW).id
    second = messages.log("bob", "ann", "tell", now=NOW).id
    third = messages.log("cid", None, "ask", workflow=1, now=NOW).id
    messages.set_state(first, "delivered", now=NOW)

    assert ids(messages.of_agent("ann", state="pending")) == [third, second]
    assert ids(messages.of_agent("ann", state="delivered")) == [first]
    assert ids(messages.of_agent("ann", type="ask")) == [third, first]
    assert ids(messages.of_agent("ann", workflow="nightly")) == [third, first]
    assert ids(messages.of_agent("ann", workflow="nightly", type="ask", state="pending")) == [third]
    assert ids(messages.of_workflow("nightly")) == [third, first]
    assert ids(messages.of_workflow(1, state="delivered")) == [first]
    assert ids(messages.of_workflow(1, type="tell")) == []
    page = messages.of_workflow("nightly", limit=1)
    assert (ids(page), page.after) == ([third], third)
    assert ids(messages.of_workflow("nightly", limit=1, after=third)) == [first]


def test_bad_question_is_refused(messages: MessageRepository) -> None:
    """What cannot be asked is named with what can."""
    with pytest.raises(UnknownName, match='there is no agent "anna": did you mean ann'):
        messages.of_agent("anna")
    with pytest.raises(UnknownName, match='no workflow "nighty": did you mean nightly'):
        messages.of_agent("ann", workflow="nighty")
    with pytest.raises(UnknownName, match="no workflow 9"):
        messages.of_workflow(9)
    with pytest.raises(InputError, match='state is "new", expected one of pending, delivered, read, failed'):
        messages.of_agent("ann", state="new")
    with pytest.raises(InputError, match='direction is "in", expected one of received, sent, both'):
        messages.of_agent("ann", direction="in")  # type: ignore[arg-type]  # what a caller without types may say
    for limit in (0, -1, 10_001):
        with pytest.raises(InputError, match=f"limit is {limit}"):
            messages.of_agent("ann", limit=limit)


def test_two_readers_one_wins(messages: MessageRepository) -> None:
    """Of several threads that deliver the same message one does, and the others learn that it was done."""
    message = messages.log("ann", "bob", "note", now=NOW).id
    start = threading.Barrier(4)
    refused: list[IllegalTransition] = []

    def deliver() -> None:
        start.wait()
        try:
            messages.set_state(message, "delivered", now=NOW)
        except IllegalTransition as exc:
            refused.append(exc)

    threads = [threading.Thread(target=deliver) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(refused) == 3
    assert [event.to_state for event in messages.history(message)] == ["pending", "delivered"]
