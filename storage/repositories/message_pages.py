"""
Statements that read messages, each put together once: to do that takes SQLAlchemy longer than the database to answer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import ColumnElement, FromClause, Select, UnaryExpression, bindparam, literal, or_, select, union_all

from storage.models import Agent, Base
from storage.work_models import Message

#: Which messages of an agent: those that it was sent, those that it sent, or both.
Direction = Literal["received", "sent", "both"]

_MESSAGES, _AGENTS = Base.metadata.tables[Message.__tablename__], Base.metadata.tables[Agent.__tablename__]
_SENDERS, _RECIPIENTS = _AGENTS.alias("senders"), _AGENTS.alias("recipients")

#: Conditions, and the order of an index that serves them.
_Part = tuple[tuple[ColumnElement[bool], ...], tuple[UnaryExpression[Any], ...]]


# Five directions (the fifth is none), five states, and three filters that are there or not.
@lru_cache(maxsize=256)
def page(
    direction: Direction | None, state: str | None, *, by_type: bool, by_workflow: bool, paged: bool
) -> Select[Any]:
    """
    Return the statement that reads some messages, newest first.

    Its parameters are ``rows``, at most; ``agent`` by name where there is a *direction*; ``type``, ``workflow`` by id
    and ``after``, the id of an older page's end, where they are asked for.
    """
    only: list[ColumnElement[bool]] = []
    if state is not None:
        # In the statement itself, not beside it: only so is the index of pending ones known to fit.
        only.append(_MESSAGES.c.state == literal(state, literal_execute=True))
    if by_type:
        only.append(_MESSAGES.c.type == bindparam("type"))
    if by_workflow:
        only.append(_MESSAGES.c.workflow_id == bindparam("workflow"))
    if paged:
        only.append(_MESSAGES.c.id < bindparam("after"))
    # Each part is read off the end of an index, and no further than a page is long: rows and all, which takes less than
    # to come back for those that are on the page.
    parts = [
        select(_MESSAGES).where(*part, *only).order_by(*order).limit(bindparam("rows")).subquery()
        for part, order in _parts(direction)
    ]
    found = union_all(*(select(part) for part in parts)).subquery()
    newest = select(found).order_by(found.c.id.desc()).limit(bindparam("rows")).subquery()
    return _with_names(newest).order_by(newest.c.id.desc())


@lru_cache(maxsize=1)
def one() -> Select[Any]:
    """Return the statement that reads the message of the parameter ``id``."""
    return _with_names(_MESSAGES).where(_MESSAGES.c.id == bindparam("id"))


def _with_names(messages: FromClause) -> Select[Any]:
    plain = (
        "type", "state", "payload", "reason", "workflow_id", "task_id", "created_at", "delivered_at", "read_at", "version",
    )  # fmt: skip
    names = (_SENDERS.c.name.label("sender"), _RECIPIENTS.c.name.label("recipient"))
    return (
        select(messages.c.id, *names, *(messages.c[name] for name in plain))
        .select_from(messages)
        .join(_SENDERS, _SENDERS.c.id == messages.c.sender_id)
        .outerjoin(_RECIPIENTS, _RECIPIENTS.c.id == messages.c.recipient_id)
    )


def _parts(direction: Direction | None) -> list[_Part]:
    """Return what is asked for as parts that do not overlap."""
    sender, recipient, newest = _MESSAGES.c.sender_id, _MESSAGES.c.recipient_id, _MESSAGES.c.id.desc()
    if direction is None:
        return [((), (newest,))]
    me = select(_AGENTS.c.id).where(_AGENTS.c.name == bindparam("agent")).scalar_subquery()
    if direction == "sent":
        return [((sender == me,), (newest,))]
    # PostgreSQL does not see that a column which IS NULL is in order.
    received: list[_Part] = [
        ((recipient == me,), (newest,)),
        ((recipient.is_(None), sender != me), (recipient.desc(), newest)),
    ]
    if direction == "received":
        return received
    return [*received, ((sender == me, or_(recipient.is_(None), recipient != me)), (newest,))]
