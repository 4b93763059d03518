"""
Settings: one file, the environment and the command line, validated once.

What is given on the command line goes before the environment (``FLEETPULSE_DATABASE_URL`` is ``url`` of
``[database]``), and that before ``fleetpulse.toml``. A key that is not known, a value that is out of range, two agents
of one name: each is an error that names place, key and value.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from collector.config import CollectorConfig, Credential, Limits, ProgressRules, SpoolConfig
from fleetpulse.quantities import format_duration, parse_duration, parse_size
from fleetpulse.settings_file import Place, describe, read_environment, read_file
from rollups.policy import RetentionPolicy
from storage.embedded import home_folder
from storage.errors import SettingsError
from storage.model import AgentSpec, usual_timeout_s
from storage.specs import RESERVED_PREFIX, validate_spec

#: Looked for in the working directory, then in the home folder, when no file is named.
FILE_NAME = "fleetpulse.toml"
ENVIRONMENT_PREFIX = "FLEETPULSE_"
#: Sections whose keys are variables too; agents and credentials are for a file.
_FROM_ENVIRONMENT = ("database", "collector", "spool", "limits", "retention")


def _parse_keep(value: object) -> timedelta | None:
    if value is None or value == "forever":
        return None
    try:
        return parse_duration(value)
    except ValueError as exc:
        raise ValueError(f'{exc}, or "forever"') from None


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
#: How long something is kept; ``None`` is for ever.
Keep = Annotated[timedelta | None, BeforeValidator(_parse_keep)]
Size = Annotated[int, BeforeValidator(parse_size)]

_SECOND = timedelta(seconds=1)


def _at_least(low: str) -> AfterValidator:
    def check(value: timedelta | int) -> timedelta | int:
        bound = parse_duration(low) if isinstance(value, timedelta) else parse_size(low)
        if value < bound:  # type: ignore[operator]  # the bound is of the value's type
            raise ValueError(f"expected at least {low}")
        return value

    return AfterValidator(check)


def _at_most(high: str) -> AfterValidator:
    def check(value: timedelta | int) -> timedelta | int:
        bound = parse_duration(high) if isinstance(value, timedelta) else parse_size(high)
        if value > bound:  # type: ignore[operator]  # the bound is of the value's type
            raise ValueError(f"expected at most {high}")
        return value

    return AfterValidator(check)


#: How often something is done that costs a round trip.
Period = Annotated[Duration, _at_least("1s")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, hide_input_in_errors=True)


class DatabaseSettings(_Section):
    """``[database]``: without an address, the embedded PostgreSQL is used."""

    #: ``postgresql://user:password@host:port/database`` or ``sqlite:///file``.
    url: SecretStr | None = None
    #: File that holds the address, so that a password stands in no settings file; relative to that file.
    url_file: Path | None = None
    #: What the database is used as; without it the database is asked.
    engine: Literal["timescaledb", "postgresql", "sqlite"] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> DatabaseSettings:
        if self.url is not None and self.url_file is not None:
            raise ValueError("url and url_file are both set, expected one of the two")
        return self


class CollectorSettings(_Section):
    """``[collector]``: the daemon."""

    #: Its vitals are those of agent ``fleetpulse/<name>``.
    name: str = Field("main", min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    #: Name under which this machine's own metrics are stored; empty for none.
    host: str = Field(default_factory=socket.gethostname, max_length=200)
    host_interval: Period = timedelta(seconds=15)
    flush_interval: Annotated[Duration, _at_least("50ms"), _at_most("1m")] = timedelta(milliseconds=500)
    sync_interval: Period = timedelta(seconds=10)
    refresh_interval: Period = timedelta(seconds=15)
    #: Address of ``/health`` and ``/metrics``; anybody who reaches it may read them.
    listen_host: str = Field("127.0.0.1", min_length=1)
    #: 0 picks a free port.
    listen_port: int = Field(9817, ge=0, le=65_535)


class SpoolSettings(_Section):
    """``[spool]``: what is kept on disk until the database has it."""

    max_size: Annotated[Size, _at_least("16MiB")] = 1024**3
    max_age: Annotated[Duration, _at_least("1m")] = timedelta(days=3)
    keep_committed: Duration = timedelta(minutes=10)


class LimitSettings(_Section):
    """``[limits]``: how much one agent may answer."""

    body: Annotated[Size, _at_least("1KiB")] = 4 * 1024**2
    header: Annotated[Size, _at_least("1KiB")] = 64 * 1024
    samples: int = Field(5_000, ge=1)
    series: int = Field(10_000, ge=1)
    labels: int = Field(32, ge=0)
    name: Annotated[Size, _at_least("1B"), _at_most("2000B")] = 200
    value: Annotated[Size, _at_least("1B"), _at_most("64KiB")] = 1_024
    redirects: int = Field(5, ge=0, le=50)


class RetentionSettings(_Section):
    """``[retention]``: how long each tier is kept, and finished work."""

    raw: Keep = timedelta(days=7)
    m1: Keep = Field(timedelta(days=30), alias="1m")
    h1: Keep = Field(timedelta(days=400), alias="1h")
    d1: Keep = Field(None, alias="1d")
    ledger: Duration = timedelta(days=14)
    work: Keep = None
    messages: Keep = None


class CredentialSettings(_Section):
    """``[credentials.NAME]``: a secret by file or variable, and the hosts that it may be sent to."""

    hosts: tuple[str, ...] = Field(min_length=1)
    bearer_token_file: Path | None = None
    bearer_token_env: str | None = None
    #: Header name to file that holds its value.
    header_files: dict[str, Path] = Field(default_factory=dict)
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    ca_file: Path | None = None

    @model_validator(mode="after")
    def _consistent(self) -> CredentialSettings:
        if self.bearer_token_file is not None and self.bearer_token_env is not None:
            raise ValueError("bearer_token_file and bearer_token_env are both set, expected one of the two")
        if self.client_key_file is not None and self.client_cert_file is None:
            raise ValueError("client_key_file is set and client_cert_file is not, expected both")
        return self


class ProgressSettings(_Section):
    """``[progress.TYPE]``: what agents of a type have to do besides answering; ``*`` is for types that are not named."""

    counter: str | None = Field(None, min_length=1)
    counter_within: Annotated[Duration, _at_least("1s")] | None = None
    task_p95_factor: float | None = Field(None, ge=1, allow_inf_nan=False)
    #: A minute, where there is a factor.
    task_min: Duration | None = None
    heartbeat_within: Annotated[Duration, _at_least("1s")] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ProgressSettings:
        if (self.counter is None) != (self.counter_within is None):
            given, missing = ("counter", "counter_within")[:: 1 if self.counter_within is None else -1]
            raise ValueError(f"{given} is set and {missing} is not, expected both")
        if self.task_min is not None and self.task_p95_factor is None:
            raise ValueError("task_min is set and task_p95_factor is not, expected both")
        return self

    def rules(self) -> ProgressRules:
        """Return the rules as the collector knows them."""
        return ProgressRules(
            counter=self.counter,
            counter_within_s=(self.counter_within or timedelta(0)) / _SECOND,
            task_p95_factor=self.task_p95_factor,
            task_min_s=(timedelta(minutes=1) if self.task_min is None else self.task_min) / _SECOND,
            heartbeat_within_s=None if self.heartbeat_within is None else self.heartbeat_within / _SECOND,
        )


class AgentSettings(_Section):
    """``[[agents]]``: one agent. Keys are those of ``AgentSpec``, with durations instead of seconds."""

    name: str
    type: str = "agent"
    probe: str = "http"
    endpoint: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    interval: Duration = timedelta(seconds=15)
    #: Ten seconds, or the interval where that is shorter.
    timeout: Duration | None = None
    rise: int = 1
    fall: int = 2
    credential: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    paused: bool = False

    def spec(self) -> AgentSpec:
        """Return the agent as the rest of the program knows it."""
        interval_s = self.interval / _SECOND
        return AgentSpec(
            name=self.name,
            type=self.type,
            probe=self.probe,
            endpoint=self.endpoint,
            labels=self.labels,
            interval_s=interval_s,
            timeout_s=usual_timeout_s(interval_s) if self.timeout is None else self.timeout / _SECOND,
            rise=self.rise,
            fall=self.fall,
            credential=self.credential,
            options=self.options,
            source="file",
            paused=self.paused,
        )


class Settings(BaseSettings):
    """Everything that can be set. Made by ``load_settings``, which turns what is wrong into ``SettingsError``."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    #: Folder of the spool and of the embedded database.
    home: Path = Field(default_factory=home_folder)
    database: DatabaseSettings = DatabaseSettings()
    collector: CollectorSettings = Field(default_factory=CollectorSettings)
    spool: SpoolSettings = SpoolSettings()
    limits: LimitSettings = LimitSettings()
    retention: RetentionSettings = RetentionSettings()
    credentials: dict[str, CredentialSettings] = Field(default_factory=dict)
    #: By type of agents.
    progress: dict[str, ProgressSettings] = Field(default_factory=dict)
    agents: tuple[AgentSettings, ...] = ()
    _file: Path | None = PrivateAttr(None)

    @property
    def file(self) -> Path | None:
        """Return the file that was read, ``None`` when there was none."""
        return self._file

    def database_url(self) -> str | None:
        """
        Return the address of the database, ``None`` for the embedded one.

        Raises:
            SettingsError: The file that should hold it cannot be read, or is empty.
        """
        if self.database.url is not None:
            return self.database.url.get_secret_value()
        if self.database.url_file is None:
            return None
        path = self._beside_file(self.database.url_file)
        try:
            url = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise SettingsError(f"database.url_file {path} cannot be read: {exc}") from exc
        if not url:
            raise SettingsError(f"database.url_file {path} is empty, expected postgresql://user:password@host/database")
        return url

    def retention_policy(self) -> RetentionPolicy:
        """Return how long each tier is kept."""
        keep = self.retention
        return RetentionPolicy(
            raw=keep.raw,
            m1=keep.m1,
            h1=keep.h1,
            d1=keep.d1,
            ledger=keep.ledger,
            work=keep.work,
            messages=keep.messages,
        )

    def agent_specs(self) -> tuple[AgentSpec, ...]:
        """Return the agents of the settings file."""
        return tuple(agent.spec() for agent in self.agents)

    def collector_config(self) -> CollectorConfig:
        """Return what the daemon needs, as plain values."""
        collector, limits = self.collector, self.limits
        return CollectorConfig(
            name=collector.name,
            home=self.home,
            agents=self.agent_specs(),
            credentials={name: self._credential(name, each) for name, each in self.credentials.items()},
            limits=Limits(
                body_bytes=limits.body,
                header_bytes=limits.header,
                samples=limits.samples,
                series=limits.series,
                labels=limits.labels,
                name_bytes=limits.name,
                value_bytes=limits.value,
                redirects=limits.redirects,
            ),
            spool=SpoolConfig(
                max_bytes=self.spool.max_size, max_age=self.spool.max_age, keep_committed=self.spool.keep_committed
            ),
            progress={name: each.rules() for name, each in self.progress.items()},
            flush_interval_s=collector.flush_interval / _SECOND,
            host=collector.host,
            host_interval_s=collector.host_interval / _SECOND,
            sync_interval_s=collector.sync_interval / _SECOND,
            refresh_interval_s=collector.refresh_interval / _SECOND,
            listen_host=collector.listen_host,
            listen_port=collector.listen_port,
        )

    def _credential(self, name: str, found: CredentialSettings) -> Credential:
        def beside(path: Path | None) -> Path | None:
            return None if path is None else self._beside_file(path)

        return Credential(
            name=name,
            hosts=found.hosts,
            bearer_token_file=beside(found.bearer_token_file),
            bearer_token_env=found.bearer_token_env,
            header_files={header: self._beside_file(path) for header, path in found.header_files.items()},
            client_cert_file=beside(found.client_cert_file),
            client_key_file=beside(found.client_key_file),
            ca_file=beside(found.ca_file),
        )

    def _beside_file(self, path: Path) -> Path:
        """Return *path*, taken from the folder of the settings file when it is relative."""
        path = path.expanduser()
        return path if self.file is None else self.file.parent / path


def load_settings(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """
    Read and validate the settings.

    Args:
        path: The settings file; when not given, ``fleetpulse.toml`` here or in the home folder, if there is one.
        overrides: What the command line says, nested as in the file: ``{"database": {"url": …}}``.

    Raises:
        SettingsError: A file cannot be read, a key is not known, a value is out of range or contradicts another one.
    """
    file = read_file(_find(path))
    given = dict(overrides or {})
    environment = read_environment(ENVIRONMENT_PREFIX, _FROM_ENVIRONMENT)

    class _Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (
                init_settings,
                InitSettingsSource(settings_cls, environment),
                InitSettingsSource(settings_cls, file.data),
            )

    place = Place(overrides=given, environment=environment, file=file, prefix=ENVIRONMENT_PREFIX)
    try:
        loaded = _Loaded(**given)
    except ValidationError as exc:
        raise describe(exc, Settings, place) from exc
    loaded._file = file.path
    _check(loaded, place)
    return loaded


def _find(path: Path | None) -> Path | None:
    if path is not None:
        return path
    for folder in (Path.cwd(), home_folder()):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    return None


def _check(settings: Settings, place: Place) -> None:
    """Check what one value alone cannot tell."""
    seen: dict[str, int] = {}
    for number, agent in enumerate(settings.agents):
        where = place.agent(number)
        try:
            validate_spec(agent.spec())
        except SettingsError as exc:
            raise SettingsError(f"{where}: {exc}") from exc
        if agent.name in seen:
            raise SettingsError(
                f'agent "{agent.name}" stands twice: {place.agent(seen[agent.name])} and {where}, '
                "expected each name once"
            )
        seen[agent.name] = number
        if agent.name.startswith(RESERVED_PREFIX):
            raise SettingsError(
                f'{where}: agent "{agent.name}": names with {RESERVED_PREFIX} in front are the daemons\' own'
            )
        if agent.credential and agent.credential not in settings.credentials:
            known = ", ".join(sorted(settings.credentials)) or "none"
            raise SettingsError(
                f'{where}: agent "{agent.name}": credential is "{agent.credential}", expected one of [credentials]: {known}'
            )
    try:
        policy = settings.retention_policy()
    except SettingsError as exc:
        raise SettingsError(f"{place.of(('retention',))}: {exc}") from exc
    if policy.ledger <= settings.spool.max_age:
        raise SettingsError(
            f"{place.of(('retention', 'ledger'))}: retention.ledger is {format_duration(policy.ledger)}, expected more "
            f"than spool.max_age {format_duration(settings.spool.max_age)}: a replay that the ledger has forgotten would be stored twice"
        )
