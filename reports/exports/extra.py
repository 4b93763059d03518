"""
The extra that data frames and files of columns need, and what to do where it is not installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from storage.errors import FleetpulseError

#: What `pip install "fleetpulse[frames]"` brings, by the names of the modules.
LIBRARIES = frozenset({"pandas", "pyarrow", "adbc_driver_postgresql", "adbc_driver_manager"})


class ExtraMissing(FleetpulseError, ImportError):
    """The libraries of an extra are not installed."""


@contextmanager
def frames_extra(what: str) -> Iterator[None]:
    """
    Have imports in the block fail with the remedy.

    Args:
        what: Who needs them: ``fleetpulse export``.

    Raises:
        ExtraMissing: A library of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        library = (exc.name or "").partition(".")[0]
        if library not in LIBRARIES:
            raise
        raise ExtraMissing(f'{what} needs {library}, found none: run pip install "fleetpulse[frames]"') from exc
