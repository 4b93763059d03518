"""
What becomes of tasks, messages and workflows: the states that each may be in, and the ways between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from storage.errors import IllegalTransition, InputError, quoted


class TaskState(StrEnum):
    """Where a task is. A task whose dependencies are not done yet is pending as well: nobody gets it before."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class MessageState(StrEnum):
    """Where a message is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    READ = "read"
    FAILED = "failed"


class WorkflowState(StrEnum):
    """Where a workflow is."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateMachine:
    """The states of one kind of thing, and where each may lead."""

    #: State to the states that may follow it; nothing follows a final one.
    ways: Mapping[str, frozenset[str]]

    def states(self) -> tuple[str, ...]:
        """Return every state, in the order of the enumeration; whatever it is, it can be looked for among them."""
        return tuple(self.ways)

    def insist_state(self, state: str | None) -> None:
        """
        Insist that *state*, which somebody looks for, is one of these; ``None`` is any.

        Raises:
            InputError: It is none.
        """
        if state is not None and state not in self.states():
            raise InputError(f"state is {quoted(state)}, expected one of {', '.join(self.states())}")

    def is_final(self, state: str) -> bool:
        """Tell whether nothing follows *state*."""
        return not self.ways[state]

    def check(self, what: str, old: str, new: str) -> None:
        """
        Insist that *what*, which is in state *old*, may go to *new*.

        Args:
            what: As messages call it: ``task 7 (summarise)``.

        Raises:
            IllegalTransition: It may not, or *new* is no state.
        """
        if new not in self.states():
            raise IllegalTransition(what, old, new, allowed=self.states())
        if new not in self.ways[old]:
            raise IllegalTransition(what, old, new, allowed=tuple(sorted(self.ways[old])))


def _machine(ways: Mapping[str, frozenset[str]]) -> StateMachine:
    return StateMachine(ways=MappingProxyType({str(state): followers for state, followers in ways.items()}))


_NOWHERE: frozenset[str] = frozenset()

#: A running task goes back to pending when its lease ends before it does; a failed one when it is tried again.
TASK = _machine(
    {
        TaskState.PENDING: frozenset({TaskState.RUNNING, TaskState.CANCELLED}),
        TaskState.RUNNING: frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED, TaskState.PENDING}),
        TaskState.COMPLETED: _NOWHERE,
        TaskState.FAILED: frozenset({TaskState.PENDING, TaskState.CANCELLED}),
        TaskState.CANCELLED: _NOWHERE,
    },
)
#: A message that failed may be sent again.
MESSAGE = _machine(
    {
        MessageState.PENDING: frozenset({MessageState.DELIVERED, MessageState.FAILED}),
        MessageState.DELIVERED: frozenset({MessageState.READ, MessageState.FAILED}),
        MessageState.READ: _NOWHERE,
        MessageState.FAILED: frozenset({MessageState.PENDING}),
    },
)
#: A workflow that failed runs again when one of its tasks is tried again.
WORKFLOW = _machine(
    {
        WorkflowState.PENDING: frozenset({WorkflowState.RUNNING, WorkflowState.CANCELLED}),
        WorkflowState.RUNNING: frozenset({WorkflowState.COMPLETED, WorkflowState.FAILED, WorkflowState.CANCELLED}),
        WorkflowState.COMPLETED: _NOWHERE,
        WorkflowState.FAILED: frozenset({WorkflowState.RUNNING, WorkflowState.CANCELLED}),
        WorkflowState.CANCELLED: _NOWHERE,
    },
)
