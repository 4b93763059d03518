"""
Real databases for tests: a fresh one per test, a copy of one that was provisioned once.

PostgreSQL servers are one per engine and test session, shared by all workers; SQLite files are copied; TimescaleDB in
WebAssembly is one process per worker, which goes back to a state that it has kept.

A session keeps its servers in a folder of its own and holds a lock on it. A session that was killed leaves a folder
whose lock is free: the next session stops its servers and removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from storage import schema
from storage.cluster import SUPERUSER, Cluster
from storage.embedded import EmbeddedServer
from storage.errors import CapabilityMissing
from storage.open import open_store
from storage.pg.series import Server
from storage.postgresql import PostgresqlSeries
from storage.sqlite import SqliteStore
from storage.store import Capability
from storage.timescaledb import TimescaledbSeries
from tests import wasm_server
from tests.wasm_server import WasmServer

#: Every engine that a contract test runs on.
ENGINES = ("sqlite", "postgresql", "postgresql15", "timescaledb", "postgresql-url", "timescaledb-url")
#: Points the suite at servers of your own, whose user may create databases, and extensions.
URL_VARIABLES = {
    "postgresql-url": "FLEETPULSE_TEST_POSTGRESQL_URL",
    "timescaledb-url": "FLEETPULSE_TEST_TIMESCALEDB_URL",
}
#: Debian's server of the oldest version that the ``postgresql`` engine supports.
OLDEST = Path("/usr/lib/postgresql/15/bin")
#: Nothing here outlives the machine: a crash of the server is tested elsewhere, with these left on.
FAST = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB"}

_PREFIX = "fleetpulse-tests-"


class OtherCluster(Cluster):
    """A data directory of another major version than the embedded one."""

    def __init__(self, data: Path, programs: Path) -> None:
        super().__init__(data)
        self._programs = programs

    def programs(self, major: int = 0) -> Path:
        """Return the folder of that version's programs."""
        return self._programs

    def require_version(self) -> None:
        """Take the version as it is."""

    def _init(self, folder: Path, *, checksums: bool = True) -> None:
        # As the embedded one, but for what that version does not know.
        self._run(
            "initdb",
            "--auth=trust",
            f"--username={SUPERUSER}",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            f"--pgdata={folder}",
            owner_of=folder,
        )
        with (folder / "postgresql.conf").open("a") as file:
            file.write("\ninclude_if_exists = 'fleetpulse.conf'\n")


class OtherServer(EmbeddedServer):
    """A PostgreSQL server of another version, run the way that the embedded one is."""

    def __init__(self, home: Path, programs: Path, *, settings: dict[str, str]) -> None:
        super().__init__(home, settings=settings)
        self._cluster = OtherCluster(self.data, programs)


def _server(home: Path) -> EmbeddedServer:
    if home.name == "postgresql15":
        return OtherServer(home, OLDEST, settings=FAST)
    return EmbeddedServer(home, settings=FAST)


@dataclass(slots=True)
class Servers:
    """The servers of one test session, as seen by one of its processes."""

    #: Folder of the session, shared by its processes.
    folder: Path
    _urls: dict[str, str] = field(default_factory=dict)
    _held: list[EmbeddedServer] = field(default_factory=list)
    _wasm: WasmServer = field(init=False)

    def __post_init__(self) -> None:
        self._wasm = WasmServer(self.folder / f"timescaledb.{os.getpid()}.log")

    def url(self, engine: str) -> str:
        """Return the address of the server of *engine*, started and with a template; its database is the template."""
        if engine not in self._urls:
            self._urls[engine] = self._template(engine, self._start(engine))
        return self._urls[engine]

    def close(self) -> None:
        """Leave the servers; the last process to leave stops them."""
        self._wasm.stop()
        while self._held:
            self._held.pop().stop()

    @contextmanager
    def database(self, engine: str, *, empty: bool = False) -> Iterator[str]:
        """Lend a database of its own: a copy of the template, or one with nothing in it but what makes the engine."""
        if engine == "timescaledb":
            with self._wasm.database(_provision, empty=empty) as url:
                yield url
            return
        copy = self._file if engine == "sqlite" else self._copy
        with copy(engine, empty=empty) as url:
            yield url

    @contextmanager
    def _copy(self, engine: str, *, empty: bool) -> Iterator[str]:
        template = self.url(engine)
        name = f"test_{uuid4().hex}"
        url = _with_database(template, name)
        source = str(make_url(template).database)
        if empty:
            source = _bare(source) if engine == "timescaledb-url" else "template0"
        _create(template, name, source)
        try:
            if engine == "timescaledb-url":
                # As in a database that was not copied: the server runs its policies while a test does what it does.
                _execute(url, sql.SQL("SELECT _timescaledb_functions.start_background_workers()"))
            yield url
        finally:
            _drop(template, name)

    @contextmanager
    def _file(self, engine: str, *, empty: bool) -> Iterator[str]:
        template = self.folder / f"{engine}.template.db"
        with self._alone(engine):
            if not template.exists():
                made = template.with_suffix(".new")
                made.unlink(missing_ok=True)
                _provision(f"sqlite:///{made}")
                # Whole or not at all: a session that is killed meanwhile leaves half a file.
                made.rename(template)
        with tempfile.TemporaryDirectory(prefix="sqlite-", dir=self.folder) as folder:
            file = Path(folder) / "test.db"
            if not empty:
                shutil.copyfile(template, file)
            yield f"sqlite:///{file}"

    @contextmanager
    def _alone(self, engine: str) -> Iterator[None]:
        with (self.folder / f"{engine}.lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _start(self, engine: str) -> str:
        if engine in URL_VARIABLES:
            return os.environ[URL_VARIABLES[engine]]
        server = _server(self.folder / engine)
        url = server.start()
        self._held.append(server)
        return url

    def _template(self, engine: str, url: str) -> str:
        # Two engines may be on one server.
        name = f"template_{self.folder.name.removeprefix(_PREFIX)}_{engine.partition('-')[0]}"
        template = _with_database(url, name)
        with self._alone(engine):
            done = self.folder / f"{engine}.template"
            if not done.exists():
                source = "template0"
                if engine == "timescaledb-url":
                    source = _bare(name)
                    _drop(url, source)
                    _create(url, source, "template0")
                    _execute(_with_database(url, source), sql.SQL("CREATE EXTENSION timescaledb"))
                    _seal(url, source)
                _drop(url, name)
                _create(url, name, source)
                _provision(template)
                if engine in URL_VARIABLES:
                    _seal(url, name)
                done.write_text(name)
        return template

    def drop_template(self) -> None:
        """Remove what servers that stay would otherwise keep."""
        for engine, variable in URL_VARIABLES.items():
            done = self.folder / f"{engine}.template"
            if done.exists():
                name = done.read_text()
                for each in (name, _bare(name)):
                    _drop(os.environ[variable], each)


def missing(engine: str) -> str | None:
    """Return why *engine* cannot be tested here, ``None`` when it can."""
    if engine == "sqlite":
        return None
    if engine == "timescaledb":
        return wasm_server.missing()
    if engine == "postgresql15":
        return None if OLDEST.is_dir() else f"Debian's PostgreSQL 15 is not installed in {OLDEST}"
    if engine in URL_VARIABLES:
        return None if os.environ.get(URL_VARIABLES[engine]) else f"{URL_VARIABLES[engine]} is not set"
    try:
        Cluster(Path()).programs()
    except CapabilityMissing as exc:
        return str(exc)
    return None


def version(engine: str) -> str:
    """Return what *engine* is tested on."""
    if engine == "sqlite":
        return f"SQLite {sqlite3.sqlite_version}"
    if engine == "timescaledb":
        return wasm_server.version()
    if engine in URL_VARIABLES:
        try:
            with psycopg.connect(os.environ[URL_VARIABLES[engine]], connect_timeout=5) as connection:
                server = f"PostgreSQL {connection.info.parameter_status('server_version')}"
                if engine == "postgresql-url":
                    return server
                asked = "SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'"
                found = connection.execute(asked).fetchone()
                return f"{server} with TimescaleDB {found[0]}" if found else f"{server} without TimescaleDB"
        except psycopg.Error as exc:
            return f"{URL_VARIABLES[engine]} cannot be reached: {' '.join(str(exc).split())}"
    programs = OLDEST if engine == "postgresql15" else Cluster(Path()).programs()
    return subprocess.run(
        [programs / "postgres", "--version"], check=True, capture_output=True, text=True, timeout=30
    ).stdout.strip()


def capabilities(engine: str) -> frozenset[Capability]:
    """Return what the store of *engine* will say of itself, without a server."""
    if engine == "sqlite":
        return SqliteStore.capabilities
    if engine.startswith("postgresql"):
        return PostgresqlSeries.capabilities
    wasm = engine == "timescaledb"
    server = Server(version=0, version_text="", wasm=wasm, timescaledb="0", license=None, provisioned=None)
    return TimescaledbSeries(server).capabilities


def make_folder() -> tuple[Path, int]:
    """Make the folder of a session; the descriptor holds its lock until it is closed."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
    # Root's servers run as another user, who has to pass through.
    folder.chmod(0o711)
    lock = os.open(folder / "session.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def remove_folder(folder: Path) -> None:
    """Remove the folder of a session, and stop servers that killed processes left in it."""
    for home in (folder / "postgresql", folder / "postgresql15"):
        if home.is_dir():
            _server(home).unpin()
    shutil.rmtree(folder)


def sweep() -> None:
    """Remove what killed sessions of this user left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if folder.stat().st_uid != os.geteuid():
                continue
            lock = os.open(folder / "session.lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            # Being made, or being removed by another session.
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_folder(folder)
        except (BlockingIOError, FileNotFoundError):
            # In use, or another session was faster.
            continue
        finally:
            os.close(lock)


def _provision(url: str) -> None:
    store = open_store(url)
    try:
        schema.upgrade(store.engine)
        store.provision()
    finally:
        store.close()


def _bare(template: str) -> str:
    """Return the name of the template beside *template* that has the extension and nothing else."""
    return f"{template}_bare"


def _with_database(url: str, name: str) -> str:
    return make_url(url).set(drivername="postgresql", database=name).render_as_string(hide_password=False)


def _create(url: str, name: str, source: str) -> None:
    # Copied as files, a database takes a third of the time that it takes through the log: tests ask for thousands.
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
        sql.Identifier(name), sql.Identifier(source)
    )
    _execute(_with_database(url, _home(url)), create)


def _drop(url: str, name: str) -> None:
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
    _execute(_with_database(url, _home(url)), drop)


def _seal(url: str, name: str) -> None:
    """Keep everybody out of a template, TimescaleDB's scheduler too: what somebody is connected to cannot be copied."""
    stop = sql.SQL(
        "DO $$ BEGIN IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN"
        " PERFORM _timescaledb_functions.stop_background_workers(); END IF; END $$"
    )
    _execute(_with_database(url, name), stop)
    closed = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(sql.Identifier(name))
    _execute(_with_database(url, _home(url)), closed)


def _home(url: str) -> str:
    """Return the database from which others are made: never a template, which nobody may be connected to then."""
    database = make_url(url).database or SUPERUSER
    return SUPERUSER if database.startswith("template_") else database


def _execute(url: str, statement: sql.SQL | sql.Composed) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
