"""
Which release this is, and whether the time-series half suits it: one rule and one set of words for every engine.
"""

from __future__ import annotations

from importlib import metadata

from storage.errors import SchemaMismatch

#: What brings a schema up to this code.
UPGRADE = 'run "fleetpulse db upgrade" or call DatabaseManager.create_schema()'


def insist_version(found: int, needed: int, *, upgrading: bool) -> None:
    """
    Insist that time series at version *found*, 0 for none, suit code that needs version *needed*.

    Raises:
        SchemaMismatch: They do not; older versions pass when *upgrading*.
    """
    if found > needed:
        raise SchemaMismatch(
            f"time series are at version {found}, code knows up to {needed}: install the newer fleetpulse",
            found=str(found),
            needed=str(needed),
        )
    if found < needed and not upgrading:
        state = f"are at version {found}" if found else "are not provisioned"
        raise SchemaMismatch(
            f"time series {state}, code needs version {needed}: {UPGRADE}",
            found=str(found),
            needed=str(needed),
        )


def release() -> str:
    """Return the release that is installed."""
    try:
        return metadata.version("fleetpulse")
    except metadata.PackageNotFoundError:
        return "unknown"
