"""
Bad circumstances, made for real and taken back: databases that only read, full disks, servers that cut connections.
"""

from __future__ import annotations

import os
import select
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import event
from sqlalchemy.engine import make_url

from storage.open import open_store
from storage.pg.store import PgStore
from storage.store import Capability, Store

#: A user who owns nothing.
NOBODY = 65534
#: Engines whose servers this suite has started itself, and in whose files it may therefore do damage.
OWN_SERVERS = ("postgresql", "postgresql15")
#: Waiting for what is about to happen, seconds.
PATIENCE_S = 30.0


def administer(url: str, *statements: sql.SQL | sql.Composed) -> None:
    """Run *statements* in a session of their own that may write, whatever the database's default is."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        for statement in statements:
            connection.execute(statement)


def reconnect(store: Store) -> None:
    """Let *store* connect anew: what it has opened would go on as before."""
    if isinstance(store, PgStore):
        store._drop_writer()
    store.engine.dispose()


# ---------------------------------------------------------------- only reading


@contextmanager
def read_only(store: Store, url: str) -> Iterator[Store]:
    """
    Let the database of *store* be one that only reads; yield a store that finds it so.

    A server's database gets a default, as an operator would give it; where all connections share one session, which no
    default reaches any more, those of another store ask for it. A file and its folder may not be written by this user,
    who is nobody for as long as it lasts if it was root.
    """
    reconnect(store)
    if store.engine_name == "sqlite":
        with _locked(Path(url.removeprefix("sqlite:///"))):
            yield store
    elif Capability.SEVERAL_WRITERS not in store.capabilities:
        other = open_store(f"{url}?options=-c%20default_transaction_read_only%3Don")
        try:
            yield other
        finally:
            other.close()
    else:
        database = sql.Identifier(make_url(url).database or "")
        administer(url, sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(database))
        try:
            yield store
        finally:
            administer(url, sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(database))


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    modes = {path: path.stat().st_mode & 0o777 for path in (file, file.parent)}
    file.chmod(0o444)
    file.parent.chmod(0o555)
    try:
        with unprivileged():
            yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be a user whom the modes of files bind: root is nobody inside, everybody else is who they are."""
    if os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([NOBODY])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


# ---------------------------------------------------------------- no room


@contextmanager
def full(store: Store, url: str, engine_name: str) -> Iterator[None]:
    """
    Let there be no room for another page in the database of *store*; status events have none yet, and get none.

    A SQLite file may not become longer than it is. Of a server of our own the file of one table is a link to
    ``/dev/full``: the kernel answers what a full disk answers. The files of other servers are out of reach; there a
    trigger says what the server would.
    """
    # Files and limits are those of new connections.
    reconnect(store)
    with ExitStack() as stack:
        if store.engine_name == "sqlite":
            stack.enter_context(_full_file(store, url))
        elif engine_name in OWN_SERVERS:
            stack.enter_context(_full_device(url, "status_events"))
        else:
            stack.enter_context(_full_by_its_own_words(url, "status_events"))
        yield


@contextmanager
def _full_file(store: Store, url: str) -> Iterator[None]:
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.close()

    def limit(opened: sqlite3.Connection, _record: object) -> None:
        opened.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(store.engine, "connect", limit)
    try:
        yield
    finally:
        event.remove(store.engine, "connect", limit)
        store.engine.dispose()


@contextmanager
def _full_device(url: str, table: str) -> Iterator[None]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        found = connection.execute(
            "SELECT current_setting('data_directory'), pg_relation_filepath(%s)", (table,)
        ).fetchone()
    assert found is not None
    file = Path(*found)
    assert file.stat().st_size == 0, "rows that are there leave room for more"
    away = file.with_name(f"{file.name}.away")
    file.rename(away)
    file.symlink_to("/dev/full")
    try:
        yield
    finally:
        file.unlink()
        away.rename(file)


@contextmanager
def _full_by_its_own_words(url: str, table: str) -> Iterator[None]:
    administer(
        url,
        sql.SQL(
            "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION"
            " 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$"
        ),
        sql.SQL("CREATE TRIGGER no_room BEFORE INSERT ON {} FOR EACH STATEMENT EXECUTE FUNCTION no_room()").format(
            sql.Identifier(table)
        ),
    )
    try:
        yield
    finally:
        administer(
            url,
            sql.SQL("DROP TRIGGER no_room ON {}").format(sql.Identifier(table)),
            sql.SQL("DROP FUNCTION no_room()"),
        )


# ---------------------------------------------------------------- cut connections


class Relay:
    """
    A way to a server that can be cut at a word of the server's.

    Args:
        url: Address of the server.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._url = url
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        #: Address of the relay, in plain text, so that it can be listened to.
        self.url = (
            parsed.set(host="127.0.0.1", port=port)
            .difference_update_query(["host", "port"])
            .update_query_dict({"sslmode": "disable", "gssencmode": "disable"})
            .render_as_string(hide_password=False)
        )
        # Written by the test's thread and by that of the connection, each by one assignment; nobody waits for it.
        self._cut_at: bytes | None = None
        self._threads = [threading.Thread(target=self._accept, name="relay")]
        self._threads[0].start()

    def cut_at(self, word: bytes) -> None:
        """Once the server says *word*, cut that connection instead of passing it on."""
        self._cut_at = word

    @property
    def has_cut(self) -> bool:
        """Tell whether the word was said."""
        return self._cut_at is None

    def close(self) -> None:
        """Take no more connections, and wait for the ends of those that there are."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a connection through the relay was left open"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                # Closed.
                return
            thread = threading.Thread(target=self._carry, args=(client,), name="relay")
            self._threads.append(thread)
            thread.start()

    def _connect(self) -> socket.socket:
        with psycopg.connect(self._url) as connection:
            host, port = connection.info.host, connection.info.port
        connection.close()
        if not host.startswith("/"):
            return socket.create_connection((host, port), PATIENCE_S)
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _carry(self, client: socket.socket) -> None:
        with client, self._connect() as server:
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for source in ready:
                    data = source.recv(65_536)
                    if not data:
                        return
                    if source is server and self._cut_at is not None and self._cut_at in data:
                        self._cut_at = None
                        return
                    (client if source is server else server).sendall(data)
