"""
Every error that storage raises.

::

    FleetpulseError                     anything below; ``str()`` is fit for a person
    ├── SettingsError                   a setting is unknown, missing or out of range
    ├── BatchError                      a batch is malformed: the caller's bug or a damaged spool row
    └── StorageError
        ├── SchemaMismatch              the database is at another revision than the code needs
        ├── CapabilityMissing           the engine or server cannot do what was asked
        ├── CollectorRunning            another daemon holds this database
        ├── NotSettled                  a range cannot be dropped yet: marks are left in it
        ├── NotRolledUp                 part of a window lies below what a tier still holds
        ├── InputError                  what a caller handed over cannot be stored or looked for
        │   └── InvalidWindow           a range of time without zones, or one that ends before it starts
        ├── UnknownName                 there is no agent, workflow, task, message or metric like the one that was named
        ├── DuplicateName               the name is taken
        ├── IllegalTransition           a task, message or workflow cannot go from its state to the one that was asked for
        ├── DependencyCycle             a task would have to wait for itself
        ├── StaleVersion                somebody else has changed it since it was read
        ├── LeaseLost                   a task is not, or no longer, the worker's that speaks of it
        ├── PermanentStorageError       SQLSTATE class 22 or 23: the data is at fault, retrying cannot help
        └── TransientStorageError       everything else: keep, retry the whole transaction, back off
            └── OutcomeUnknown          the link was cut while the database committed: it may have been done

Driver exceptions never leave an engine.
"""

from __future__ import annotations

import reprlib

from storage.names import is_name

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80
_REPR.maxlevel = 3


def shown(value: object) -> str:
    """Return *value*, whatever it is, as messages show it: short, on one line, without what no terminal can print."""
    try:
        return " ".join(_REPR.repr(value).split())
    except ValueError:
        # A whole number of more digits than Python writes.
        return f"a value of type {type(value).__name__}"


def quoted(value: object) -> str:
    """Return *value* as messages show a name: in double quotes, or as ``shown`` does where it cannot be one."""
    return f'"{value}"' if is_name(value) else shown(value)


class FleetpulseError(Exception):
    """Base of all errors that fleetpulse raises on purpose."""


class SettingsError(FleetpulseError):
    """A setting is unknown, missing or out of range."""


class BatchError(FleetpulseError):
    """A batch is malformed."""


class StorageError(FleetpulseError):
    """Base of what an engine raises."""


class InputError(StorageError):
    """What a caller handed over cannot be stored or looked for: a payload, a name, a state, the size of a page."""


class InvalidWindow(InputError, ValueError):
    """A range of time without zones, or one that ends before it starts."""


class SchemaMismatch(StorageError):
    """
    The database is at another revision than the code needs.

    Attributes:
        found: Revision in the database, ``None`` when it has none.
        needed: Revision that this code was written for.
    """

    def __init__(self, message: str, *, found: str | None, needed: str) -> None:
        super().__init__(message)
        self.found = found
        self.needed = needed


class CapabilityMissing(StorageError):
    """
    The engine or server cannot do what was asked.

    Attributes:
        feature: What was asked for.
        found: What is there.
        needed: What it would take.
    """

    def __init__(self, feature: str, *, found: str, needed: str) -> None:
        super().__init__(f"{feature} is not available: found {found}, needed {needed}")
        self.feature = feature
        self.found = found
        self.needed = needed


class CollectorRunning(StorageError):
    """Another daemon holds this database."""


class NotSettled(StorageError):
    """A range cannot be dropped yet: marks are left in it, somebody has marked it meanwhile."""


class NotRolledUp(StorageError):
    """Part of a window lies below what a tier still holds."""


class UnknownName(StorageError):
    """
    There is nothing of that name.

    Attributes:
        kind: What was looked for: ``agent``.
        name: The name, or the number, that was asked for.
    """

    def __init__(self, kind: str, name: object, remedy: str) -> None:
        super().__init__(f"there is no {kind} {quoted(name)}: {remedy}")
        self.kind = kind
        self.name = name


class DuplicateName(StorageError):
    """
    The name is taken.

    Attributes:
        kind: What was to be made: ``workflow``.
        name: The name that is taken.
    """

    def __init__(self, kind: str, name: str, remedy: str) -> None:
        super().__init__(f'{kind} "{name}" is there already: {remedy}')
        self.kind = kind
        self.name = name


class IllegalTransition(StorageError):
    """
    A task, message or workflow cannot go from its state to the one that was asked for.

    Attributes:
        old: The state that it is in.
        new: The state that was asked for.
        allowed: The states that may follow *old*; all that there are, where *new* is none.
    """

    def __init__(self, what: str, old: str, new: str, *, allowed: tuple[str, ...]) -> None:
        expected = " or ".join(allowed) if allowed else f"nothing, {old} is final"
        super().__init__(f"{what} cannot go from {old} to {new if is_name(new) else shown(new)}, expected {expected}")
        self.old = old
        self.new = new
        self.allowed = allowed


class DependencyCycle(StorageError):
    """
    A task would have to wait for itself.

    Attributes:
        cycle: The tasks as messages call them, each waiting for the next; the last is the first again.
    """

    def __init__(self, cycle: tuple[str, ...]) -> None:
        super().__init__(f"dependencies would go round in a circle, expected none: {' waits for '.join(cycle)}")
        self.cycle = cycle


class StaleVersion(StorageError):
    """
    Somebody else has changed it since it was read.

    Attributes:
        found: The version that it has now.
        expected: The version that the caller had read.
    """

    def __init__(self, what: str, *, found: int, expected: int) -> None:
        super().__init__(f"{what} was changed meanwhile: found version {found}, expected {expected}: read it again")
        self.found = found
        self.expected = expected


class LeaseLost(StorageError):
    """A task is not, or no longer, the worker's that speaks of it: its lease has ended, or somebody took it away."""


class PermanentStorageError(StorageError):
    """
    The data is at fault; retrying cannot help.

    Attributes:
        sqlstate: Five characters, class 22 or 23.
    """

    def __init__(self, message: str, *, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class TransientStorageError(StorageError):
    """
    The database could not take it now; retry the whole transaction.

    Attributes:
        sqlstate: Five characters, or ``None`` where the driver gives none (refused log-in, cut link).
    """

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class OutcomeUnknown(TransientStorageError):
    """
    The answer to a commit was lost: the transaction was done, or it was not, as a whole.

    Whoever repeats the call without a look may do it twice.
    """
