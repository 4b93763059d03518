"""
Reports that join metrics of agents with what the agents worked on.
"""

from __future__ import annotations

from datetime import timedelta

from reports.definition import Definition, Option, Span, columns
from storage.model import Table

#: Longer windows are told by hours: two days of 100 agents are 288,000 minutes of each metric.
_MINUTES_UP_TO = timedelta(days=2)

COST = (
    Definition(
        name="workflow_cost",
        description="what workflows cost: each metric of the agents, attributed to the tasks that ran on them",
        span=Span.SERIES,
        table=Table.AGENT,
        filters=("workflow", "workflow_type", "agent", "metric"),
        options=(
            Option(
                name="minutes_up_to_s",
                description="longest window that is counted by minutes, a longer one by hours",
                default=_MINUTES_UP_TO.total_seconds(),
                low=0,
                high=timedelta(days=366).total_seconds(),
            ),
        ),
        columns=columns(
            *("workflow", "~workflow_type", "part", "metric", "unit", "amount:1", "share:ratio", "~total:1"),
        ),
    ),
)
