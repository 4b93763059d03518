"""
An agent's status, worked out of its checks in due order. Pure: no clock, no network, no database.

The words are HAProxy's. ``fall`` consecutive bad checks take an agent down, ``rise`` consecutive good ones bring it
back up; in between, one check of the other kind starts the count again.

=================  =========================================================================================
now                what changes it
=================  =========================================================================================
unknown            the first check that was made decides at once, good or bad: there is no reputation to lose
healthy, degraded  a good check sets the one or the other at once; ``fall`` bad ones in a row set the last of them
a down status      a bad check of another kind renames it at once; ``rise`` good ones in a row set the last of them
paused             any check that was made, as from unknown; ``resume`` sets unknown until then
=================  =========================================================================================

``paused`` is entered by the first paused slot, without a count. A skipped slot says nothing about the agent: it
changes neither the status nor the counts. Nor does the late answer of a poll that was running when the pause began.
"""

from __future__ import annotations

from storage.model import DOWN, UNKNOWN, UP, Outcome, Transition, from_us

_LABELS = {int(outcome): outcome.label for outcome in Outcome}
_GOOD = frozenset(int(outcome) for outcome in UP)
_DOWN_LABELS = frozenset(outcome.label for outcome in DOWN)
_UP_LABELS = frozenset(outcome.label for outcome in UP)
_SKIPPED = int(Outcome.SKIPPED)
_PAUSED = int(Outcome.PAUSED)
_PAUSED_LABEL = Outcome.PAUSED.label


class StatusMachine:
    """
    The status of one agent.

    Args:
        agent: Name, for the transitions.
        rise: Consecutive good checks until a down agent counts as up.
        fall: Consecutive bad checks until an up agent counts as down.
        status: What it was when the collector last knew, so that a restart invents no transition.
    """

    __slots__ = ("_agent", "_paused_us", "_streak", "fall", "reason", "rise", "since_us", "status")

    def __init__(self, agent: str, *, rise: int, fall: int, status: str = UNKNOWN) -> None:
        self._agent = agent
        self.rise = rise
        self.fall = fall
        #: Label of an outcome, or ``unknown``.
        self.status = status
        #: When and why it changed last, as far as this collector saw it: microseconds since the Unix epoch, 0 before.
        self.since_us = 0
        self.reason = ""
        # Checks in a row that speak against the status.
        self._streak = 0
        # Last slot that was paused.
        self._paused_us = 0

    def observe(self, due_us: int, outcome: int, reason: str = "") -> Transition | None:
        """
        Take in the check of the next slot; return the change of status that it completes.

        Args:
            due_us: Due time, microseconds since the Unix epoch.
            outcome: An ``Outcome``.
            reason: Goes into the transition.
        """
        label = _LABELS[outcome]
        if outcome == _PAUSED:
            self._paused_us = due_us
        elif due_us < self._paused_us and self.status == _PAUSED_LABEL:
            # A poll that ran when the pause began answers behind the first paused slot.
            return None
        if label == self.status:
            # By far the most frequent case: nothing speaks against what is known.
            self._streak = 0
            return None
        if outcome == _SKIPPED:
            return None
        if outcome == _PAUSED:
            return self._enter(label, due_us, reason)
        good = outcome in _GOOD
        if self.status in _UP_LABELS and not good:
            needed = self.fall
        elif self.status in _DOWN_LABELS and good:
            needed = self.rise
        else:
            needed = 1
        self._streak += 1
        if self._streak < needed:
            return None
        return self._enter(label, due_us, reason)

    def resume(self, due_us: int) -> Transition | None:
        """End a planned maintenance at *due_us*: the status is unknown until the next check; no-op when not paused."""
        if self.status != _PAUSED_LABEL:
            return None
        return self._enter(UNKNOWN, due_us, "resumed")

    def _enter(self, status: str, due_us: int, reason: str) -> Transition:
        old, self.status = self.status, status
        self._streak = 0
        self.since_us, self.reason = due_us, reason
        return Transition(agent=self._agent, due=from_us(due_us), old=old, new=status, reason=reason)
