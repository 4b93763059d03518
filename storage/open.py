"""
From an address to the engine that serves it.
"""

from __future__ import annotations

from storage.errors import SettingsError
from storage.postgresql import PostgresqlStore
from storage.store import Store

#: Schemes and the engines that they stand for.
POSTGRESQL = frozenset({"postgresql", "postgres"})


def open_store(url: str) -> Store:
    """
    Return the store at *url*; nothing is connected until it is used.

    Raises:
        SettingsError: The address cannot be read, or no engine serves its kind. It is not repeated in the message:
            what is malformed may have a password anywhere.
    """
    scheme, found, _ = url.partition("://")
    if not found or not scheme.replace("+", "").isalnum():
        raise SettingsError("database address has no scheme, expected postgresql://user:password@host:port/database")
    if scheme.split("+")[0] not in POSTGRESQL:
        raise SettingsError(
            f"database address has scheme {scheme}, expected postgresql://user:password@host:port/database"
        )
    return PostgresqlStore(url)
