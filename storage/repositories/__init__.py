"""
The relational half as callers see it: agents, and what they work on.
"""

from __future__ import annotations

from storage.repositories.agent_rows import AgentRecord
from storage.repositories.agents import AgentInfo, AgentRepository, SyncResult
from storage.repositories.base import Page
from storage.repositories.capabilities import Capabilities
from storage.repositories.messages import MessageRecord, MessageRepository, MessageSpec
from storage.repositories.tasks import Recovered, TaskRepository, TaskSpec
from storage.repositories.workflows import Cancelled, WorkflowRepository, WorkflowSpec

__all__ = [
    # agents
    "AgentInfo",
    "AgentRecord",
    "AgentRepository",
    "Cancelled",
    "Capabilities",
    # messages
    "MessageRecord",
    "MessageRepository",
    "MessageSpec",
    # shared
    "Page",
    # tasks
    "Recovered",
    "SyncResult",
    "TaskRepository",
    "TaskSpec",
    "WorkflowRepository",
    "WorkflowSpec",
]
