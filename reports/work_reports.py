"""
Reports about what agents work on: tasks, workflows and messages.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import cast

from reports.definition import Ask, Definition, Option, Span, columns
from reports.graphs import longest_path, nearest


def _with_critical_path(ask: Ask) -> list[tuple[object, ...]]:
    """Return the workflows, each with the longest way through its tasks."""
    lengths: dict[int, dict[int, float]] = defaultdict(dict)
    waits: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    names: dict[int, str] = {}
    graph = cast(Sequence[tuple[int, int, str | None, float, int | None]], ask("workflow_summary_graph").rows)
    for workflow, task, name, work_s, other in graph:
        if other is None:
            lengths[workflow][task] = work_s
            names[task] = name or f"#{task}"
        else:
            waits[workflow][task].append(other)
    rows: list[tuple[object, ...]] = []
    for workflow, *row in cast(Sequence[tuple[int, *tuple[object, ...]]], ask("workflow_summary").rows):
        length, path = longest_path(lengths[workflow], waits[workflow])
        rows.append((*row, length, " > ".join(names[task] for task in path) or None))
    return rows


def _by_task(ask: Ask) -> list[tuple[object, ...]]:
    """Return one row per task in the radius, the nearest first."""
    roots: dict[int, str] = {}
    waits: dict[int, list[int]] = defaultdict(list)
    described: dict[int, tuple[object, ...]] = {}
    names: dict[int, str] = {}
    waiting: Counter[object] = Counter()
    found = cast(
        Sequence[tuple[int, str | None, str, str, object, object, str | None, int | None]], ask("blast_radius").rows
    )
    for task, name, task_type, state, workflow, workflow_state, why, other in found:
        if task not in described:
            described[task] = (name, task_type, state, workflow, workflow_state)
            names[task] = f"task {task}" if name is None else f"task {task} ({name})"
            waiting[workflow] += 1
        if other is None:
            roots[task] = str(why)
        else:
            waits[task].append(other)
    rows: list[tuple[object, ...]] = []
    for task, (distance, nearer) in sorted(nearest(roots, waits).items(), key=lambda each: (each[1][0], each[0])):
        *what, workflow, workflow_state = described[task]
        reason = roots[task] if nearer is None else f"waits for {names[nearer]}"
        here = None if workflow is None else waiting[workflow]
        rows.append((distance, task, *what, reason, workflow, workflow_state, here))
    return rows


_LIMIT = Option(name="limit", description="rows at most", default=100, low=1, high=100_000, whole=True)

WORK = (
    Definition(
        name="task_throughput",
        description="tasks of each type in the window: made, begun, finished, how fast, and for how long they waited",
        span=Span.EXACT,
        filters=("task_type", "agent", "workflow_type"),
        columns=columns(
            *("task_type", "~created:n", "started:n", "completed:n", "failed:n", "~cancelled:n"),
            *("completed_per_hour:1", "duration_p50_s:s", "duration_p95_s:s", "~duration_p99_s:s"),
            *("~duration_mean_s:s", "~duration_max_s:s", "wait_p50_s:s", "~wait_p95_s:s"),
        ),
    ),
    Definition(
        name="queue_age",
        description="what waits and what runs now by type of task, the oldest ready one first",
        span=Span.NOW,
        filters=("task_type",),
        columns=columns(
            *("task_type", "ready:n", "blocked:n", "scheduled:n", "running:n", "stuck:n"),
            *("oldest_s:s", "p50_s:s", "p95_s:s"),
        ),
    ),
    Definition(
        name="hot_spots",
        description="where runs fail or are repeated, by type of task and agent, the worst first",
        span=Span.EXACT,
        filters=("task_type", "agent", "workflow_type"),
        columns=columns(
            *("task_type", "agent", "runs:n", "~retries:n", "failed:n", "~lease_expired:n"),
            *("failure_ratio:ratio", "retry_ratio:ratio", "reason"),
        ),
        options=(_LIMIT,),
    ),
    Definition(
        name="workflow_summary",
        description="the latest workflows of the window: state, progress, work, and the critical path",
        span=Span.EXACT,
        filters=("workflow", "workflow_type"),
        columns=columns(
            *("workflow", "~workflow_type", "state", "tasks:n", "~pending:n", "~running:n", "completed:n", "failed:n"),
            *("~cancelled:n", "progress:ratio", "~started_at:utc", "~finished_at:utc", "elapsed_s:s", "~work_s:s"),
            *("~runs:n", "~retries:n", "~parallelism:1", "critical_path_s:s", "~critical_path"),
        ),
        options=(_LIMIT,),
        finish=_with_critical_path,
    ),
    Definition(
        name="blast_radius",
        description="tasks and workflows that wait when one agent is down from now on",
        span=Span.NOW,
        filters=("agent",),
        columns=columns(
            *("distance:n", "task_id:id", "task", "~task_type", "state", "why", "workflow", "workflow_state"),
            "workflow_waiting:n",
        ),
        options=(
            Option(
                name="down_for_s",
                description="for how long it is down, in seconds",
                default=1800,
                low=0,
                high=366 * 86_400,
            ),
        ),
        required=("agent",),
        finish=_by_task,
    ),
    Definition(
        name="top_talkers",
        description="messages by sender and recipient, the busiest first",
        span=Span.EXACT,
        filters=("agent",),
        columns=columns(
            *("sender", "recipient", "messages:n", "~payload_bytes:By", "failed:n"),
            *("delivery_p50_s:s", "~delivery_p95_s:s", "last_at:utc"),
        ),
        options=(_LIMIT,),
    ),
)
