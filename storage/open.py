"""
From an address to the engine that serves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from storage.errors import SettingsError
from storage.pg.series import Series, Server
from storage.pg.store import PgStore
from storage.postgresql import PostgresqlSeries
from storage.sqlite import SqliteStore
from storage.store import Store
from storage.timescaledb import TimescaledbSeries

#: Every engine by its name, with the schemes of its addresses.
ENGINES = {
    "timescaledb": frozenset({"postgresql", "postgres"}),
    "postgresql": frozenset({"postgresql", "postgres"}),
    "sqlite": frozenset({"sqlite"}),
}
_EXPECTED = "expected postgresql://user:password@host:port/database or sqlite:///file"


#: Engine to its time series, where one is named.
_SERIES: Mapping[str | None, Callable[[Server], Series]] = {
    "timescaledb": TimescaledbSeries,
    "postgresql": PostgresqlSeries,
}


def _ask(server: Server) -> Series:
    extended = server.timescaledb is not None if server.provisioned is None else server.provisioned == "timescaledb"
    return TimescaledbSeries(server) if extended else PostgresqlSeries(server)


def open_store(url: str, engine: str | None = None) -> Store:
    """
    Return the store at *url*; nothing is connected until it is used.

    Args:
        engine: Name of the engine. ``None`` asks the database: the engine that its time series were made for, else
            ``timescaledb`` where that extension is installed, else ``postgresql``.

    Raises:
        SettingsError: The address cannot be read, or no engine serves its kind. It is not repeated in the message:
            what is malformed may have a password anywhere.
    """
    scheme, found, _ = url.partition("://")
    if not found or not scheme.replace("+", "").isalnum():
        raise SettingsError(f"database address has no scheme, {_EXPECTED}")
    scheme = scheme.split("+")[0]
    served = [name for name, schemes in ENGINES.items() if scheme in schemes]
    if not served:
        raise SettingsError(f"database address has scheme {scheme}, {_EXPECTED}")
    if engine is not None and engine not in ENGINES:
        raise SettingsError(f'engine "{engine}" does not exist, expected one of {", ".join(ENGINES)}')
    if engine is not None and engine not in served:
        raise SettingsError(
            f"engine {engine} does not serve addresses of scheme {scheme}, expected {' or '.join(served)}"
        )
    if scheme == "sqlite":
        return SqliteStore(url)
    return PgStore(url, _SERIES.get(engine, _ask))
