"""
The lock that makes a collector the only one of its database: an advisory lock on a file beside it.

The system lets go of it when the process ends, whatever becomes of it. The file stays: whoever removes it while another
process waits for it would let two in. It is none of SQLite's own files, because closing any descriptor of one of those
drops the process's locks on the database.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path

from storage.errors import CollectorRunning, TransientStorageError

SUFFIX = ".collector"


class Claim:
    """The lock of one store; used by the writer's thread alone."""

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + SUFFIX)
        self._descriptor: int | None = None

    def take(self, name: str) -> None:
        """
        Take the lock for the collector *name*; harmless where this store has it.

        Raises:
            CollectorRunning: Another store or process has it.
            TransientStorageError: The file cannot be made.
        """
        if self._descriptor is not None:
            return
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise TransientStorageError(
                f"lock {self._path} cannot be made: {(exc.strerror or str(exc)).lower()}: "
                "let this user write the folder of the database",
                sqlstate="58030",
            ) from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            found = _holder(descriptor)
            os.close(descriptor)
            raise CollectorRunning(
                f"database is taken: {found} holds {self._path}; stop that one before collector {name} starts"
            ) from exc
        except OSError as exc:
            os.close(descriptor)
            raise TransientStorageError(
                f"lock {self._path} cannot be taken: {(exc.strerror or str(exc)).lower()}: "
                "move the database to a local disk",
                sqlstate="58030",
            ) from exc
        self._descriptor = descriptor
        holder = {"collector": name, "pid": os.getpid(), "host": socket.gethostname()}
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)

    def release(self) -> None:
        """Let go of the lock."""
        if self._descriptor is not None:
            os.truncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def _holder(descriptor: int) -> str:
    """Return who holds the lock, in words."""
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
        return f"collector {found['collector']}, process {found['pid']} on {found['host']},"
    except (ValueError, KeyError, TypeError):
        # Between taking the lock and writing the name, or before letting go of it.
        return "another collector"
