"""
Reports about what agents work on: tasks, workflows and messages.
"""

from __future__ import annotations

from reports.definition import Definition

WORK: tuple[Definition, ...] = ()
