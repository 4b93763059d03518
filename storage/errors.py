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
        ├── PermanentStorageError       SQLSTATE class 22 or 23: the data is at fault, retrying cannot help
        └── TransientStorageError       everything else: keep, retry the whole transaction, back off

Driver exceptions never leave an engine.
"""

from __future__ import annotations


class FleetpulseError(Exception):
    """Base of all errors that fleetpulse raises on purpose."""


class SettingsError(FleetpulseError):
    """A setting is unknown, missing or out of range."""


class BatchError(FleetpulseError):
    """A batch is malformed."""


class StorageError(FleetpulseError):
    """Base of what an engine raises."""


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
