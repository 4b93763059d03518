"""
Agents and their schedules as the command line registers them, and what a collector saw of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import insert, select

from storage.batch import Batch
from storage.model import Outcome
from storage.models import Agent, AgentSchedule
from storage.store import Store
from storage.transactions import writing
from tests.batches import NOON


def add_agent(store: Store, name: str, *, type: str = "worker", state: str = "active", interval_s: float = 60) -> None:
    """Register an agent as the command line would."""
    added = insert(Agent).values(
        name=name,
        type=type,
        probe="http",
        endpoint="",
        labels={},
        interval_s=interval_s,
        timeout_s=10,
        rise=1,
        fall=2,
        credential="",
        options={},
        source="api",
        state=state,
        created_at=NOON,
        retired_at=NOON if state == "retired" else None,
    )
    with writing(store.engine).begin() as connection:
        connection.execute(added)


def schedule(
    store: Store,
    name: str,
    start: datetime,
    end: datetime | None,
    *,
    interval_s: float = 60,
    offset_s: float = 0,
    state: str = "active",
) -> None:
    """Say that the agent is polled so from *start* to *end*."""
    added = insert(AgentSchedule).values(
        agent_id=select(Agent.id).where(Agent.name == name).scalar_subquery(),
        from_ts=start,
        to_ts=end,
        interval_s=interval_s,
        offset_s=offset_s,
        state=state,
    )
    with writing(store.engine).begin() as connection:
        connection.execute(added)


def write(store: Store, batch: Batch) -> None:
    """Write what a collector saw that has ended since: slots up to now are due."""
    store.write(batch)
    store.close_session(batch.session)


def checks(agent: str, due: Sequence[datetime], outcome: Outcome) -> list[tuple[str, datetime, Outcome, float | None]]:
    """Return one check of each due time."""
    return [(agent, at, outcome, 5.0 if outcome is Outcome.HEALTHY else None) for at in due]
