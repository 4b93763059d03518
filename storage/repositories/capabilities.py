"""
What agents can do: rows of ``agent_capabilities``, within somebody's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from storage.errors import InputError
from storage.payloads import alike, check_name, check_payload
from storage.repositories.base import MAX_LISTED
from storage.work_models import AgentCapability

#: Name of a capability to what there is to say of it, such as limits and versions.
Capabilities = Mapping[str, Mapping[str, Any]]


def check_capabilities(agent: str, capabilities: object) -> None:
    """
    Insist that *capabilities* can be those of an agent.

    Raises:
        InputError: A name or details cannot be stored, or there are no details.
    """
    if not isinstance(capabilities, Mapping):
        raise InputError(
            f'capabilities of agent "{agent}" are of type {type(capabilities).__name__}, expected a mapping of names to '
            'what there is to say of each: {"write": {}}'
        )
    for name, details in capabilities.items():
        check_name(f'capability of agent "{agent}"', name)
        what = f'details of capability "{name}" of agent "{agent}"'
        if not isinstance(details, dict):
            raise InputError(f"{what} are of type {type(details).__name__}, expected a dict")
        check_payload(what, details)


def capabilities_of(session: Session, agent_ids: Sequence[int]) -> dict[int, dict[str, dict[str, Any]]]:
    """Return what each of the agents can do, by id and name; one that can do nothing is not among them."""
    if not agent_ids:
        return {}
    # A page of thousands reads what lies between its ends: a statement takes no more than 65,535 parameters.
    listed = len(agent_ids) <= MAX_LISTED
    place = AgentCapability.agent_id
    only = place.in_(agent_ids) if listed else place.between(min(agent_ids), max(agent_ids))
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for row in session.execute(
        select(place, AgentCapability.name, AgentCapability.details).where(only).order_by(place, AgentCapability.name)
    ):
        found.setdefault(row.agent_id, {})[row.name] = row.details
    return found


def put_capabilities(session: Session, wanted: Mapping[int, Capabilities], now: datetime) -> None:
    """Add what *wanted* says of each agent, by id; what is there already gets the details. The agents are locked."""
    known = capabilities_of(session, list(wanted)) if wanted else {}
    new: list[dict[str, object]] = []
    for agent_id, each in wanted.items():
        for name, details in each.items():
            key = {"agent_id": agent_id, "name": name}
            if name not in known.get(agent_id, {}):
                new.append({**key, "details": dict(details), "added_at": now})
            elif not alike(known[agent_id][name], details):
                session.execute(update(AgentCapability).filter_by(**key).values(details=dict(details)))
    if new:
        session.execute(insert(AgentCapability), new)
