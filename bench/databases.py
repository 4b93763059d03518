"""
Fresh databases to measure in: on the embedded server, or on one that is named.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from storage import schema
from storage.embedded import EmbeddedServer
from storage.open import open_store
from storage.store import Store


def alone(run: Callable[[str | None], bool], description: str | None, server: str) -> NoReturn:
    """
    Be the program that takes one benchmark; end with 1 when a bar is missed.

    Args:
        server: What the option for a server is good for.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--database-url", help=server)
    raise SystemExit(0 if run(parser.parse_args().database_url) else 1)


@contextmanager
def fresh_store(server_url: str | None) -> Iterator[Store]:
    """
    Lend a store on a database of its own, which is dropped afterwards.

    Args:
        server_url: A server whose user may make databases, used with TimescaleDB where it has that; ``None`` starts an
            embedded one.
    """
    with _database(server_url) as url, closing(open_store(url)) as store:
        schema.upgrade(store.engine)
        store.provision()
        yield store


@contextmanager
def _database(server_url: str | None) -> Iterator[str]:
    if server_url is None:
        with tempfile.TemporaryDirectory(prefix="fleetpulse-bench-") as folder, EmbeddedServer(Path(folder)) as server:
            yield server.url
        return
    name = f"fleetpulse_bench_{uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = make_url(server_url).set(database=name).render_as_string(hide_password=False)
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            there = connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'").fetchone()
            if there:
                connection.execute("SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS timescaledb")
        yield url
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
