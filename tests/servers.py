"""
Real database servers for tests: one per engine and test session, shared by all workers; one fresh database per test.

A session keeps its servers in a folder of its own and holds a lock on it. A session that was killed leaves a folder
whose lock is free: the next session stops its servers and removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
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

#: Points the suite at a server of your own, whose user may create databases.
URL_VARIABLE = "FLEETPULSE_TEST_POSTGRESQL_URL"
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

    def url(self, engine: str) -> str:
        """Return the address of the server of *engine*, started and with a template; its database is the template."""
        if engine not in self._urls:
            self._urls[engine] = self._template(engine, self._start(engine))
        return self._urls[engine]

    def close(self) -> None:
        """Leave the servers; the last process to leave stops them."""
        while self._held:
            self._held.pop().stop()

    @contextmanager
    def database(self, engine: str, *, empty: bool = False) -> Iterator[str]:
        """Lend a database of its own: a copy of the template, or one with nothing in it."""
        template = self.url(engine)
        name = f"test_{uuid4().hex}"
        url = _with_database(template, name)
        source = "template1" if empty else str(make_url(template).database)
        _execute(
            template,
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(source)),
        )
        try:
            yield url
        finally:
            _execute(template, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _start(self, engine: str) -> str:
        if engine == "postgresql-url":
            return os.environ[URL_VARIABLE]
        server = _server(self.folder / engine)
        url = server.start()
        self._held.append(server)
        return url

    def _template(self, engine: str, url: str) -> str:
        name = f"template_{self.folder.name.removeprefix(_PREFIX)}"
        template = _with_database(url, name)
        with (self.folder / f"{engine}.lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = self.folder / f"{engine}.template"
            if not done.exists():
                _execute(url, sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
                _execute(url, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
                store = open_store(template)
                try:
                    schema.upgrade(store.engine)
                    store.provision()
                finally:
                    store.close()
                done.write_text(name)
        return template

    def drop_template(self) -> None:
        """Remove what a server that stays would otherwise keep."""
        done = self.folder / "postgresql-url.template"
        if done.exists():
            drop = sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(done.read_text()))
            _execute(os.environ[URL_VARIABLE], drop)


def missing(engine: str) -> str | None:
    """Return why *engine* cannot be tested here, ``None`` when it can."""
    if engine == "postgresql15":
        return None if OLDEST.is_dir() else f"Debian's PostgreSQL 15 is not installed in {OLDEST}"
    if engine == "postgresql-url":
        return None if os.environ.get(URL_VARIABLE) else f"{URL_VARIABLE} is not set"
    try:
        Cluster(Path()).programs()
    except CapabilityMissing as exc:
        return str(exc)
    return None


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
    for home in folder.iterdir():
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


def _with_database(url: str, name: str) -> str:
    return make_url(url).set(drivername="postgresql", database=name).render_as_string(hide_password=False)


def _execute(url: str, statement: sql.Composed) -> None:
    # Never the template itself: a database that somebody is connected to cannot be copied.
    parsed = make_url(url).set(drivername="postgresql")
    if (parsed.database or "").startswith("template_"):
        parsed = parsed.set(database=SUPERUSER)
    with psycopg.connect(parsed.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(statement)
