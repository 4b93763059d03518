"""
Data frames of the fleet, for notebooks: ``from fleetpulse import frames``.

What each column is and which types, units and missing values to expect is told in ``docs/export.md``. Needs the extra
``frames``.
"""

from __future__ import annotations

from reports.exports.extra import frames_extra

with frames_extra("fleetpulse.frames"):
    from reports.exports.frames import (
        agent_metrics,
        agent_samples,
        agents,
        health,
        health_records,
        incidents,
        messages,
        report_frame,
        system_metrics,
        system_samples,
        table,
        task_runs,
        tasks,
        workflows,
    )
    from reports.exports.joins import join_agents, join_tasks
    from reports.exports.shapes import resample, wide

__all__ = [
    # time series
    "agent_metrics",
    "agent_samples",
    # agents and their work
    "agents",
    "health",
    "health_records",
    "incidents",
    # shapes
    "join_agents",
    "join_tasks",
    "messages",
    # reports
    "report_frame",
    "resample",
    "system_metrics",
    "system_samples",
    "table",
    "task_runs",
    "tasks",
    "wide",
    "workflows",
]
