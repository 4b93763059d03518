"""
Databases with roles for tests: roles belong to the whole server, so their names are each test's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from storage.open import open_store
from storage.pg import roles
from storage.pg.rights import Names
from storage.store import Store
from tests.servers import Servers


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A database, and three roles for it, whether they are made already or not."""

    #: Address of the superuser.
    url: str
    names: Names

    @property
    def wanted(self) -> roles.Wanted:
        """Return what the plan is made for; the password of each role is its name."""
        return roles.Wanted(names=self.names, passwords={name: name for name in self.names.all()})

    def other(self, name: str) -> str:
        """Return the name of a further role, which goes as the three do."""
        return f"{self.names.owner.removesuffix('_owner')}_{name}"

    def url_of(self, role: str) -> str:
        """Return the address of *role*."""
        url = make_url(self.url).set(username=role, password=role)
        return url.render_as_string(hide_password=False)

    @contextmanager
    def connected(self, role: str | None = None) -> Iterator[psycopg.Connection]:
        """Lend a session of *role*, or of the superuser, in autocommit."""
        with psycopg.connect(self.url if role is None else self.url_of(role), autocommit=True) as connection:
            yield connection

    @contextmanager
    def store(self, role: str | None = None) -> Iterator[Store]:
        """Lend a store of *role*, or of the superuser."""
        with closing(open_store(self.url if role is None else self.url_of(role))) as store:
            yield store

    def plan(self) -> list[str]:
        """Return what is left to be done, as a superuser sees it."""
        with self.store() as store:
            return [change.text for change in roles.plan(store.engine, self.wanted)]

    def apply(self) -> list[str]:
        """Do it; return what was done."""
        with self.store() as store:
            return [change.text for change in roles.apply(store.engine, self.wanted)]


@contextmanager
def lent(servers: Servers, engine: str, *, empty: bool = False) -> Iterator[Place]:
    """Lend a database of its own and names for its roles; both are gone afterwards."""
    prefix = f"t{uuid4().hex[:12]}"
    names = Names(owner=f"{prefix}_owner", writer=f"{prefix}_writer", reader=f"{prefix}_reader")
    # Outlives the database: what a role has in a database keeps it from being dropped.
    server = servers.url(engine)
    try:
        with servers.database(engine, empty=empty) as url:
            yield Place(url=url, names=names)
    finally:
        drop_roles(server, f"{prefix}_")


def drop_roles(url: str, prefix: str) -> None:
    """Drop the roles whose names begin with *prefix*; nothing is theirs any more."""
    # Not the template itself: a database that somebody is connected to cannot be copied.
    parsed = make_url(url)
    if (parsed.database or "").startswith("template_"):
        parsed = parsed.set(database="postgres")
    with psycopg.connect(parsed.render_as_string(hide_password=False), autocommit=True) as connection:
        found = connection.execute("SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", (prefix,)).fetchall()
        for (name,) in found:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
