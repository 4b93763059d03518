"""
The embedded PostgreSQL: what fleetpulse uses when it is given no database.

One server per home folder, shared by every process that needs it. Whoever uses it holds a shared lock on
``postgres.lock``; whoever leaves last stops it, unless it is pinned. The kernel keeps the count, so a killed process
leaves none behind. Starting and stopping happen under an exclusive lock on ``postgres.start.lock``: of two processes
that start at the same time one waits and then finds the server running, and nobody can come while the last one leaves.

The server lives in a session of its own: neither Ctrl-C on a terminal nor the death of the process that started it
reaches it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import platformdirs
import psutil
import psycopg

from storage.cluster import PORT, SUPERUSER, Cluster, clean_environment
from storage.errors import StorageError, TransientStorageError

logger = logging.getLogger(__name__)

HOME_VARIABLE = "FLEETPULSE_HOME"
DATABASE = "fleetpulse"

#: Until the server is ready. A start takes 0.2 s, a first one 1.5 s; recovery after a crash reads at most 1 GB of log,
#: on a slow disk that somebody else is using as well.
START_DEADLINE_S = 600
#: Until the server has ended: its last checkpoint writes 128 MB at most.
STOP_DEADLINE_S = 300
#: Between two looks at a server that is starting, and two tries for a lock.
POLL_S = 0.02
#: One log-in over a unix socket; the server is on this machine and answers at once or not at all.
CONNECT_S = 10

#: What a new postmaster says while processes of a killed one are still ending; it passes within seconds.
_STILL_ENDING = ("pre-existing shared memory block", "is still in use")


def home_folder() -> Path:
    """Return where fleetpulse keeps its data: ``FLEETPULSE_HOME``, else the platform's place for such data."""
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/fleetpulse")
    return Path(platformdirs.user_data_path("fleetpulse"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Postmaster:
    """What ``postmaster.pid`` says."""

    pid: int
    socket_folder: Path


class EmbeddedServer:
    """
    One process's hold on the embedded server of a home folder.

    Use it as a context manager, or call ``start`` and ``stop`` in pairs. Not for use by several threads at once, and a
    child made by ``os.fork`` without ``exec`` shares its parent's hold.
    """

    def __init__(self, home: Path | None = None, *, settings: Mapping[str, str] | None = None) -> None:
        """
        Args:
            home: Folder that holds ``postgres/``; ``home_folder()`` when not given.
            settings: Further server settings, used only when this object is the one that starts the server.
        """
        self.home = (home or home_folder()).resolve()
        self.data = self.home / "postgres"
        self._cluster = Cluster(self.data)
        self._settings = tuple((settings or {}).items())
        #: Descriptor that holds the shared lock; open while this object uses the server.
        self._hold: int | None = None

    # ---------------------------------------------------------------- use

    def start(self) -> str:
        """
        Use the server; start it, make its data directory and its database where they are missing.

        Returns:
            ``postgresql://postgres@/fleetpulse?host=…&port=…``

        Raises:
            CapabilityMissing: The data directory is of another major version, or the programs are missing.
            StorageError: The folder belongs to somebody else, or the server ended while it started.
            TransientStorageError: The server was not ready in time.
        """
        if self._hold is not None:
            return self.url
        self._make_home()
        with self._alone():
            hold = self._open_lock("postgres.lock")
            try:
                fcntl.flock(hold, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if not self.data.exists():
                    logger.info("making the embedded database in %s", self.data)
                    self._cluster.create()
                self._cluster.require_version()
                self._ensure_running()
                self._ensure_database()
            except BaseException:
                os.close(hold)
                raise
            self._hold = hold
        return self.url

    def stop(self) -> bool:
        """
        Stop using the server; stop it if nobody else uses it and it is not pinned.

        Returns:
            Whether the server was stopped.
        """
        if self._hold is None:
            return False
        with self._alone():
            hold, self._hold = self._hold, None
            try:
                return not self.pinned and self._stop_if_last(hold)
            finally:
                os.close(hold)

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Return the URL of the database. The server must be running."""
        postmaster = self._postmaster()
        if postmaster is None:
            raise StorageError(f'embedded database in {self.data} is not running: run "fleetpulse db start"')
        return self._url(postmaster.socket_folder, DATABASE)

    @property
    def running(self) -> bool:
        """Tell whether the server runs, whoever started it."""
        return self._postmaster() is not None

    @property
    def pid(self) -> int | None:
        """Return the process id of the server, ``None`` when it does not run."""
        postmaster = self._postmaster()
        return postmaster.pid if postmaster else None

    # ---------------------------------------------------------------- pin

    @property
    def pinned(self) -> bool:
        """Tell whether the server stays when the last one leaves."""
        return self._pin.exists()

    def pin(self) -> None:
        """Let the server stay when the last one leaves, until ``unpin``."""
        self._make_home()
        self._pin.touch()

    def unpin(self) -> bool:
        """
        Let the server go with the last one who uses it; stop it now if nobody does.

        Returns:
            Whether the server was stopped.
        """
        if not self.home.exists():
            return False
        with self._alone():
            self._pin.unlink(missing_ok=True)
            if self._hold is not None:
                return False
            hold = self._open_lock("postgres.lock")
            try:
                return self._stop_if_last(hold)
            finally:
                os.close(hold)

    # ---------------------------------------------------------------- upgrade

    def upgrade(self) -> Path:
        """
        Bring a data directory of an older major version to the one that this code runs.

        Returns:
            Where the old directory is kept; delete it when the new one has proved itself.

        Raises:
            CapabilityMissing: There is no way from the version found.
            StorageError: There is no data directory, it is in use, there is nothing to upgrade, or a step failed; then
                the old directory is as it was.
        """
        if not self.data.exists():
            raise StorageError(f"there is no embedded database in {self.data}: nothing to upgrade")
        with self._alone():
            hold = self._open_lock("postgres.lock")
            try:
                if not _try_lock(hold, fcntl.LOCK_EX) or self.running:
                    raise StorageError(f"embedded database in {self.data} is in use: stop what uses it, then upgrade")
                self._remove_stale_locks()
                return self._cluster.upgrade()
            finally:
                os.close(hold)

    # ---------------------------------------------------------------- locks

    @property
    def _pin(self) -> Path:
        return self.home / "postgres.pinned"

    def _make_home(self) -> None:
        # Root's server runs as another user, who has to pass through.
        self.home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)

    def _open_lock(self, name: str) -> int:
        # Not inherited by the server: a lock that it held would never be free.
        return os.open(self.home / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep everybody else from starting and stopping the server."""
        lock = self._open_lock("postgres.start.lock")
        try:
            deadline = time.monotonic() + START_DEADLINE_S
            while not _try_lock(lock, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise TransientStorageError(
                        f"another process has been starting or stopping the embedded database in {self.data} for "
                        f"{START_DEADLINE_S} s"
                    )
                time.sleep(POLL_S)
            yield
        finally:
            os.close(lock)

    def _stop_if_last(self, hold: int) -> bool:
        if not self.running or not _try_lock(hold, fcntl.LOCK_EX):
            return False
        self._cluster.stop(STOP_DEADLINE_S)
        self._cluster.remove_socket_folder()
        logger.info("stopped the embedded database in %s", self.data)
        return True

    # ---------------------------------------------------------------- start

    def _postmaster(self) -> _Postmaster | None:
        """Return the server that runs on the data directory; a file that was left behind does not count."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            found = _Postmaster(pid=int(lines[0]), socket_folder=Path(lines[4]))
        except (FileNotFoundError, IndexError, ValueError):
            # Missing, or being written.
            return None
        return found if self._is_server(found.pid) else None

    def _is_server(self, pid: int) -> bool:
        """Tell whether *pid* is a server on the data directory; after a crash the number may be somebody else's."""
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE or not process.name().startswith("postgres"):
                return False
            # The server changes into its data directory.
            return os.path.samefile(process.cwd(), self.data)
        except psutil.AccessDenied:
            return True
        except (psutil.NoSuchProcess, FileNotFoundError):
            return False

    def _ensure_running(self) -> None:
        began = time.monotonic()
        deadline = began + START_DEADLINE_S
        while True:
            if self._postmaster() is None:
                self._remove_stale_locks()
                said = self._launch(deadline)
            else:
                # Started by a process that was killed before it was ready.
                said = None
            if said is None and self._wait(deadline):
                break
            if time.monotonic() > deadline:
                raise TransientStorageError(
                    f"embedded database in {self.data} was not ready within {START_DEADLINE_S} s: "
                    f"{self._cluster.log_tail()}"
                )
            if said is not None and not any(words in said for words in _STILL_ENDING):
                raise StorageError(f"embedded database in {self.data} ended while it started: {said}")
            time.sleep(POLL_S)
        logger.debug("embedded database in %s ready after %.2f s", self.data, time.monotonic() - began)

    def _remove_stale_locks(self) -> None:
        """
        Remove what a dead server left; to be called when there is none.

        PostgreSQL refuses to start while the number in one of these files is alive, even as another program or, in a
        container whose first process reaps nothing, as a zombie. That no process of a dead server still uses the data
        is checked by the new server itself, in shared memory.
        """
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        (self._cluster.socket_folder() / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)

    def _launch(self, deadline: float) -> str | None:
        """Start the server; return ``None`` once it is ready, or what it said when it ended."""
        self._cluster.configure()
        (self.data / "start.log").unlink(missing_ok=True)
        wait_s = max(1, int(deadline - time.monotonic()))
        command = self._cluster.start_command(self._cluster.socket_folder(), self._settings, wait_s)
        with tempfile.TemporaryFile() as output:
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                # A pipe would stay open as long as the server does.
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.data,
                env=clean_environment(),
                # Ctrl-C reaches the whole process group of the terminal, and must not reach the server.
                start_new_session=True,
                timeout=wait_s + 30,
                check=False,
                **self._cluster.as_owner(self.data),  # type: ignore[call-overload]  # user, group, extra_groups
            ).returncode
            output.seek(0)
            said = output.read().decode(errors="replace").strip()
        return None if code == 0 else f"{said}\n{self._cluster.log_tail()}"

    def _wait(self, deadline: float) -> bool:
        """Wait until the server answers; return ``False`` when it ended or the deadline passed."""
        heard = ""
        while (postmaster := self._postmaster()) is not None:
            try:
                with psycopg.connect(self._url(postmaster.socket_folder, SUPERUSER), connect_timeout=CONNECT_S):
                    return True
            except psycopg.OperationalError as exc:
                # Recovering, or not listening yet.
                if str(exc) != heard:
                    heard = str(exc)
                    logger.info("waiting for the embedded database in %s: %s", self.data, heard)
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return False

    def _ensure_database(self) -> None:
        postmaster = self._postmaster()
        if postmaster is None:
            raise StorageError(f"embedded database in {self.data} ended: {self._cluster.log_tail()}")
        url = self._url(postmaster.socket_folder, SUPERUSER)
        with psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_S) as connection:
            found = connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if found is None:
                connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(DATABASE)))

    def _url(self, socket_folder: Path, database: str) -> str:
        # The port is said because PGPORT of the environment would be taken otherwise.
        return f"postgresql://{SUPERUSER}@/{database}?host={quote(str(socket_folder), safe='/')}&port={PORT}"


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
