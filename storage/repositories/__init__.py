"""
The relational half as callers see it: agents, and what they work on.
"""

from __future__ import annotations

from storage.repositories.agents import AgentRecord, AgentRepository, SyncResult
from storage.repositories.base import Page

__all__ = [
    # agents
    "AgentRecord",
    "AgentRepository",
    # shared
    "Page",
    "SyncResult",
]
