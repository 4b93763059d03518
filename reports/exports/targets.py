"""
Files that are there whole or not at all, and what may be said of how they are written.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO
from uuid import uuid4

from storage.errors import FleetpulseError, InputError


class ExportError(FleetpulseError):
    """A file cannot be written; nothing is left of it."""


class Format(StrEnum):
    """Forms of a file."""

    PARQUET = "parquet"
    CSV = "csv"


class Compression(StrEnum):
    """How the columns of a Parquet file are packed."""

    ZSTD = "zstd"
    SNAPPY = "snappy"
    LZ4 = "lz4"
    GZIP = "gzip"
    NONE = "none"


#: Characters of its name that a file begins with while it is written: at four bytes each a name may still be 255 long.
_SHOWN_CHARS = 60

_ENDINGS = MappingProxyType({".parquet": Format.PARQUET, ".pq": Format.PARQUET, ".csv": Format.CSV})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where rows go, and in what form."""

    #: ``None`` is the open stream *stream*.
    path: Path | None
    format: Format
    compression: Compression = Compression.ZSTD
    #: Take the place of a file that is there.
    force: bool = False
    stream: BinaryIO | None = None


def format_of(path: Path) -> Format:
    """
    Return the form of a file by the end of its name.

    Raises:
        InputError: It is that of none.
    """
    found = _ENDINGS.get(path.suffix.lower())
    if found is None:
        raise InputError(f"file {path} ends in {path.suffix or 'nothing'}, expected .parquet or .csv")
    return found


def insist_free(target: Target) -> None:
    """
    Insist that *target* may be written, before anything is read for it.

    Raises:
        InputError: There is a file of that name already, or something that is none.
        ExportError: There is no such folder, or it may not be looked into.
    """
    if target.path is None:
        return
    path = _followed(target.path)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise ExportError(
                f"file {target.path} cannot be written: there is no folder {path.parent}: make it, or name another"
            ) from None
        return
    except OSError as exc:
        raise _failed(target.path, exc) from exc
    if not stat.S_ISREG(mode):
        raise InputError(f"{target.path} is not a file: name another")
    if not target.force:
        raise InputError(f"file {target.path} is there already: name another, or let it be replaced with --force")


@contextmanager
def sink(target: Target) -> Iterator[BinaryIO]:
    """
    Lend what the bytes of *target* are written to.

    A file is made under another name, beside its own, and gets its own when it is complete and on the disk.

    Raises:
        InputError: There is a file of that name already, or something that is none.
        ExportError: The disk is full, the folder cannot be written, …
    """
    if target.path is None:
        if target.stream is None:
            raise AssertionError("BUG: neither a file nor a stream to write to")
        try:
            yield target.stream
            target.stream.flush()
        except BrokenPipeError:
            # Whoever reads has enough, which is no failure.
            raise
        except OSError as exc:
            raise ExportError(f"standard output cannot be written: {_said(exc)}: mend that, or name a file") from exc
        return
    insist_free(target)
    path = _followed(target.path)
    # Beside it: only within a file system can a name be given at once.
    unfinished = path.with_name(f".{path.name[:_SHOWN_CHARS]}.{uuid4().hex[:8]}.part")
    try:
        with _made(unfinished) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _name(unfinished, path, force=target.force)
    except OSError as exc:
        raise _failed(target.path, exc) from exc
    finally:
        # It has its name by now, or it never came to be.
        with suppress(OSError):
            unfinished.unlink()


@contextmanager
def _made(path: Path) -> Iterator[BinaryIO]:
    # Readable for whom the user lets read files.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        yield file


def _name(unfinished: Path, path: Path, *, force: bool) -> None:
    """Give the file its name; without *force* only where nobody has taken it meanwhile."""
    if force:
        unfinished.replace(path)
        return
    try:
        os.link(unfinished, path)
    except FileExistsError as exc:
        raise InputError(f"file {path} came to be meanwhile: name another, or let it be replaced with --force") from exc
    except OSError as exc:
        if exc.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # A file system without links (FAT): the look before has to do.
        unfinished.rename(path)


def _followed(path: Path) -> Path:
    """Return the file that *path* leads to: a link stays, what it points to is what is written."""
    # Of a path that cannot be looked at this says no, where a Path would raise.
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def _failed(path: Path, exc: OSError) -> ExportError:
    return ExportError(
        f"file {path} cannot be written: {_said(exc)}: nothing is left of it; mend that, or name another"
    )


def _said(exc: OSError) -> str:
    return (exc.strerror or str(exc)).lower()
