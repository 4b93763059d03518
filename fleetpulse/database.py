"""
From settings to an open store: the database that is named, or the embedded one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fleetpulse.settings import Settings
from storage.database import upgrade
from storage.embedded import EmbeddedServer
from storage.errors import SchemaMismatch, SettingsError, StorageError
from storage.lite.connection import parse_url as sqlite_file
from storage.open import open_store
from storage.store import Store


@contextmanager
def opened(settings: Settings, *, check: bool = True) -> Iterator[Store]:
    """
    Lend the store that *settings* name; an embedded server is started where it is not running.

    Args:
        check: Insist on the schema of this code.

    Raises:
        StorageError: There is no embedded database yet; only ``run`` and ``db upgrade`` make one.
        SchemaMismatch: The database is at another revision than the code needs.
    """
    with located(settings) as url, closing(store_at(settings, url)) as store:
        if check:
            store.check_schema()
        yield store


def store_at(settings: Settings, url: str) -> Store:
    """
    Return the store at *url*, used as the engine that *settings* name; nothing is connected yet.

    Raises:
        SettingsError: The address cannot be read, or the engine does not serve its kind.
    """
    return open_store(url, settings.database.engine)


@contextmanager
def located(settings: Settings, *, create: bool = False) -> Iterator[str]:
    """
    Lend the address of the database; an embedded server runs as long as it is lent.

    Args:
        create: Make the embedded database where there is none.

    Raises:
        StorageError: There is none.
        SettingsError: The address is one of a database in memory, which no other command could see.
    """
    url = settings.database_url()
    if url is not None:
        file = database_file(url)
        if file is None and url.startswith("sqlite"):
            raise SettingsError(
                "database address is that of a database in memory, which ends with the command: expected one of a file, "
                "sqlite:///file"
            )
        if not create and file is not None and not file.exists():
            raise StorageError(f'there is no database in {file} yet: make one with "fleetpulse db upgrade"')
        yield url
        return
    server = EmbeddedServer(settings.home)
    if not create and not server.data.exists():
        raise StorageError(
            f'there is no database in {settings.home} yet: start the daemon with "fleetpulse run", '
            'or make an empty one with "fleetpulse db upgrade"'
        )
    with server:
        yield server.url


def database_file(url: str) -> Path | None:
    """Return the file that *url* is the database of; ``None`` where it is a server, or memory."""
    return sqlite_file(url) if url.startswith("sqlite") else None


def make_ready(store: Store, settings: Settings) -> None:
    """
    Insist on the schema of this code; a database that is ours alone, embedded or a file, is brought up to it.

    Raises:
        SchemaMismatch: A server's database is at another revision, or the database is newer than the code.
    """
    try:
        store.check_schema()
    except SchemaMismatch:
        if not is_ours(settings):
            raise
        upgrade(store)


def is_ours(settings: Settings) -> bool:
    """Tell whether the database is fleetpulse's alone: the embedded one, or a file."""
    url = settings.database_url()
    return url is None or url.startswith("sqlite")
