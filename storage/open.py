"""
From an address to the engine that serves it.
"""

from __future__ import annotations

from storage.errors import StorageError
from storage.postgresql import PostgresqlStore
from storage.store import Store


def open_store(url: str) -> Store:
    """
    Return the store at *url*; nothing is connected until it is used.

    Raises:
        StorageError: No engine serves this kind of address.
    """
    scheme = url.split("://", 1)[0].split("+", 1)[0]
    if scheme in ("postgresql", "postgres"):
        return PostgresqlStore(url)
    raise StorageError(f"database address has scheme {scheme!r}, expected postgresql://user@host:port/database")
