"""
The time-series half of a database of the PostgreSQL family: the part in which its engines differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import psycopg

from storage.model import Table, Tier, Window
from storage.pg.sinks import Sink
from storage.store import Capability, Mismatch, Partition, RefreshResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What a connection tells of its server and database."""

    #: ``server_version_num``.
    version: int
    #: As people write it: ``18.4``.
    version_text: str
    #: Compiled to WebAssembly: one process and one session for everybody, no background workers, no deadlines.
    wasm: bool
    #: Version of the extension in this database, ``None`` where it is not installed.
    timescaledb: str | None
    #: ``timescale`` (community) or ``apache``; ``None`` without the extension.
    license: str | None
    #: Engine that the time series were provisioned for, ``None`` before that.
    provisioned: str | None


class Series(Protocol):
    """The time series of one database; connections are lent by the store, in autocommit. Stateless but for the server."""

    @property
    def name(self) -> str:
        """Return the name of the engine."""
        ...

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Return what this engine, on this server, can do."""
        ...

    @property
    def sink(self) -> Sink:
        """Return where batches go."""
        ...

    @property
    def grace(self) -> timedelta:
        """See ``Store.grace``."""
        ...

    def insist(self) -> None:
        """
        Insist that the server is one that this engine works on.

        Raises:
            CapabilityMissing: Version, extension or license are not; the message names remedy and alternative.
        """
        ...

    def product(self) -> str:
        """Return product and version of the server, for people."""
        ...

    def version(self, connection: psycopg.Connection) -> tuple[int, int]:
        """See ``Store.timeseries_version``."""
        ...

    def check(self, connection: psycopg.Connection) -> None:
        """Insist on the version of this code; see ``Store.check_schema``."""
        ...

    def provision(self, connection: psycopg.Connection) -> None:
        """Make the time series or bring them up to date; see ``Store.provision``."""
        ...

    def drop(self, connection: psycopg.Connection) -> None:
        """Drop the time series, data included."""
        ...

    def audit(self, connection: psycopg.Connection, keep: Mapping[Tier, timedelta | None]) -> Sequence[str]:
        """See ``Store.audit``."""
        ...

    def ensure_partitions(self, connection: psycopg.Connection, window: Window) -> int:
        """See ``Store.ensure_partitions``."""
        ...

    def refresh(
        self, connection: psycopg.Connection, table: Table, tier: Tier, closed_before: datetime, limit: int
    ) -> RefreshResult:
        """See ``Store.refresh``."""
        ...

    def mark(self, connection: psycopg.Connection, table: Table, window: Window) -> int:
        """See ``Store.mark``."""
        ...

    def verify_tier(
        self, connection: psycopg.Connection, table: Table, tier: Tier, window: Window, against: Tier
    ) -> Sequence[Mismatch]:
        """See ``Store.verify_tier``."""
        ...

    def partitions(self, connection: psycopg.Connection, table: Table, tier: Tier) -> Sequence[Partition]:
        """See ``Store.partitions``."""
        ...

    def boundary(self, tier: Tier, moment: datetime) -> datetime:
        """See ``Store.boundary``."""
        ...

    def drop_before(
        self, connection: psycopg.Connection, table: Table, tier: Tier, boundary: datetime
    ) -> Sequence[Partition]:
        """Drop what *tier* holds below *boundary*, whose horizon has moved there already."""
        ...
