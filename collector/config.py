"""
What the collector is told at start: plain values, already validated by ``fleetpulse.settings``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from storage.model import AgentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one agent may answer; what is over is rejected and counted by reason."""

    #: Bytes of a body after decompression.
    body_bytes: int = 4 * 1024 * 1024
    #: Bytes of status line and headers together.
    header_bytes: int = 64 * 1024
    #: Samples of one answer.
    samples: int = 5_000
    #: Distinct series that one agent may have had since the daemon started.
    series: int = 10_000
    #: Labels of one series.
    labels: int = 32
    #: Bytes of a metric or label name.
    name_bytes: int = 200
    #: Bytes of a label value.
    value_bytes: int = 1_024
    #: Redirects followed in one poll.
    redirects: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A secret and where it may be sent. The secret itself stays in its file or variable, read at each poll."""

    name: str
    #: Hosts (``api.example.org`` or ``*.example.org``) that it may be sent to.
    hosts: tuple[str, ...]
    #: File that holds a bearer token; surrounding white space is ignored.
    bearer_token_file: Path | None = None
    #: Environment variable that holds a bearer token.
    bearer_token_env: str | None = None
    #: Header name to file that holds its value.
    header_files: Mapping[str, Path] = field(default_factory=dict)
    #: PEM files for mutual TLS.
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    #: PEM file of the authorities to trust instead of the system's.
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolConfig:
    """Bounds of the local spool."""

    #: Bytes of the file and its write-ahead log.
    max_bytes: int = 1024 * 1024 * 1024
    #: Batches older than this are dropped and recorded as losses.
    max_age: timedelta = timedelta(days=3)
    #: How long a committed batch stays, to be offered again after a failover.
    keep_committed: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressRules:
    """What an agent has to do besides answering; ``None`` is off."""

    #: A counter of this name has to increase …
    counter: str | None = None
    #: … at least once in so many seconds.
    counter_within_s: float = 0.0
    #: A task may run for so many times the p95 of completed runs of its type …
    task_p95_factor: float | None = None
    #: … and for so many seconds in any case.
    task_min_s: float = 0.0
    #: Seconds that the last heartbeat may be old.
    heartbeat_within_s: float | None = None

    @property
    def empty(self) -> bool:
        """Tell whether every rule is off."""
        return self.counter is None and self.task_p95_factor is None and self.heartbeat_within_s is None


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorConfig:
    """Everything that one daemon needs but its store."""

    #: Name of this collector; its vitals are those of agent ``fleetpulse/<name>``.
    name: str
    #: Folder of the spool.
    home: Path
    #: Agents of the settings file; agents of the database are added by the registry.
    agents: tuple[AgentSpec, ...] = ()
    credentials: Mapping[str, Credential] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    spool: SpoolConfig = field(default_factory=SpoolConfig)
    #: By type of agents; ``*`` is for types that are not named.
    progress: Mapping[str, ProgressRules] = field(default_factory=dict)
    #: Seconds between flushes of the buffer to the spool: half of the second after which an answer must survive a kill.
    flush_interval_s: float = 0.5
    #: Name under which this machine's own metrics are stored; empty for none.
    host: str = ""
    #: Seconds between collections of host metrics, and of the collector's own.
    host_interval_s: float = 15.0
    #: Seconds between reads of what the database knows of agents: which there are, their heartbeats and running tasks.
    sync_interval_s: float = 10.0
    #: Seconds between refreshes of the rollups.
    refresh_interval_s: float = 15.0
    #: Loopback address of ``/health`` and ``/metrics``; port 0 picks a free one.
    listen_host: str = "127.0.0.1"
    listen_port: int = 9817
