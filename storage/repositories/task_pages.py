"""
Statements that read tasks, each put together once: to do that takes SQLAlchemy a tenth of the time of a page.
"""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy import Select, bindparam, select

from storage.models import Agent
from storage.work_models import Task, Workflow

#: What may be asked of tasks, by the name of its parameter.
_CONDITIONS = {
    "state": Task.state == bindparam("state"),
    "type": Task.type == bindparam("type"),
    "failed_since": Task.finished_at >= bindparam("failed_since"),
    "agent": Task.agent_id == select(Agent.id).where(Agent.name == bindparam("agent")).scalar_subquery(),
    "workflow_id": Task.workflow_id == bindparam("workflow_id"),
    "workflow": Task.workflow_id == select(Workflow.id).where(Workflow.name == bindparam("workflow")).scalar_subquery(),
}


# No program asks in all the ways that there are.
@lru_cache(maxsize=64)
def page(asked: frozenset[str]) -> Select[Task]:
    """
    Return the statement that reads tasks by id: those behind the id ``after``, ``rows`` at most.

    Args:
        asked: Parameters that it has besides: ``state``, ``type``, ``failed_since``, ``agent`` by name, ``workflow`` by
            name or ``workflow_id``.
    """
    wanted = select(Task).where(Task.id > bindparam("after"), *(_CONDITIONS[name] for name in sorted(asked)))
    return wanted.order_by(Task.id).limit(bindparam("rows"))
