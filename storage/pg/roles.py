"""
The three roles of a database: what is missing to them, what is too much, and the statements that put that right.

A plan is the difference between the server's catalogue and ``storage.pg.rights``. It is empty where nothing is left to
do, so doing it twice does nothing, and doing it after an upgrade does what the upgrade brought.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import errors, sql
from psycopg.rows import namedtuple_row
from sqlalchemy import Engine

from storage import deadlines
from storage.errors import CapabilityMissing, StorageError
from storage.pg import scram
from storage.pg.connection import borrow
from storage.pg.partitions import partition_lock
from storage.pg.rights import READER_SETTINGS, ROUTINES, VIEWS, WRITER_ROUTINES, Names, is_ours, may
from storage.queries import load

#: Grantee of what everybody may.
PUBLIC = "public"
#: Stands for a password in what is shown.
HIDDEN = "'***'"

#: Column of pg_roles to the word that takes the attribute away.
_TOO_MUCH = {
    "rolsuper": "NOSUPERUSER",
    "rolcreatedb": "NOCREATEDB",
    "rolcreaterole": "NOCREATEROLE",
    "rolreplication": "NOREPLICATION",
    "rolbypassrls": "NOBYPASSRLS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The roles as they are to be."""

    names: Names
    #: Role to password; roles that are not named keep theirs, or have none.
    passwords: Mapping[str, str] = field(default_factory=dict)
    #: Leave alone what everybody may do in the database and its schema.
    keep_public: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One statement of a plan."""

    #: The statement as it may be shown: a password is hidden.
    text: str
    statement: sql.Composed
    #: A password is set: whether that was necessary cannot be seen from every role.
    is_password: bool = False


@dataclass(frozen=True, slots=True, order=True)
class _Grant:
    """A privilege of a role, or of everybody."""

    #: ``database``, ``schema``, ``relation``, ``column``, ``routine``, ``default``.
    kind: str
    #: What it is about; of a ``default``, the role whose future tables are meant.
    name: str
    grantee: str
    privilege: str
    #: The column.
    part: str = ""


def plan(engine: Engine, wanted: Wanted) -> list[Change]:
    """
    Return what has to be done, in order; nothing where the roles are as they are to be.

    Raises:
        CapabilityMissing: The engine has no roles.
        TransientStorageError: The database could not be reached.
    """
    _insist_on_roles(engine)
    with borrow(engine, "looking at the roles", deadlines.ADMIN) as connection, connection.transaction():
        return _Plan(connection, wanted).changes()


def apply(engine: Engine, wanted: Wanted) -> list[Change]:
    """
    Do what ``plan`` returns, all of it or nothing; return what was done.

    Raises:
        CapabilityMissing: The engine has no roles.
        StorageError: The session's role may not do that.
        TransientStorageError: The database could not be reached, or a table was in use for too long.
    """
    _insist_on_roles(engine)
    with borrow(engine, "making the roles", deadlines.ADMIN) as connection:
        me = connection.info.user
        remedy = "run it as a superuser, or as a role with CREATEROLE that owns the database and all that is in it"
        try:
            # A partition that came meanwhile would be left out.
            with partition_lock(connection), connection.transaction():
                changes = _Plan(connection, wanted).changes()
                for change in changes:
                    connection.execute(change.statement)
                # A GRANT or REVOKE that its role may not do is a warning to the server.
                left = [change for change in _Plan(connection, wanted).changes() if not change.is_password]
                if left:
                    raise StorageError(f"role {me} may not do this: {left[0].text} {remedy}")
        except errors.InsufficientPrivilege as exc:
            raise StorageError(f"role {me} may not do this: {exc.diag.message_primary}: {remedy}") from exc
    return changes


def _insist_on_roles(engine: Engine) -> None:
    if engine.dialect.name != "postgresql":
        raise CapabilityMissing(
            "making roles",
            found=f"engine {engine.dialect.name}, which has none",
            needed="PostgreSQL, with or without TimescaleDB; who may read and write a file is said by its permissions",
        )


class _Plan:
    """Compares one database with what is wanted, on a connection inside a transaction."""

    def __init__(self, connection: psycopg.Connection, wanted: Wanted) -> None:
        self._connection = connection
        self._wanted = wanted
        self._names = wanted.names
        [place] = self._ask("place")
        self._place = place
        self._attributes = {row.rolname: row for row in self._ask("attributes")}
        self._relations = [row for row in self._ask("relations") if is_ours(row.belongs_to or row.name)]
        self._routines = [row for row in self._ask("routines") if row.name in ROUTINES]

    def changes(self) -> list[Change]:
        """Return the statements, in order."""
        return [
            *self._roles(),
            *self._memberships(),
            # Before owners: who is to own a table must be able to make one there.
            *self._grants(("database", "schema")),
            *self._owners(),
            *self._grants(("relation", "column", "routine", "default")),
            *self._settings(),
            *self._passwords(),
        ]

    def _ask(self, name: str, **parameters: object) -> list[Any]:
        with self._connection.cursor(row_factory=namedtuple_row) as cursor:
            statement = load("storage", "sql/postgresql/roles.sql")[name]
            parameters.setdefault("names", list(self._names.all()))
            return list(cursor.execute(statement, parameters))

    def _change(self, statement: sql.Composed) -> Change:
        return Change(text=f"{statement.as_string(self._connection)};", statement=statement)

    def _say(self, text: str, *parts: sql.Composable) -> Change:
        return self._change(sql.SQL(text).format(*parts))

    # ---------------------------------------------------------------- roles

    def _roles(self) -> Iterator[Change]:
        for name in self._names.all():
            found = self._attributes.get(name)
            if found is None:
                yield self._say("CREATE ROLE {} LOGIN", sql.Identifier(name))
                continue
            # The server runs jobs of TimescaleDB for roles that may log in, and for no others.
            words = [] if found.rolcanlogin else ["LOGIN"]
            words += [word for column, word in _TOO_MUCH.items() if getattr(found, column)]
            if words:
                yield self._say("ALTER ROLE {} {}", sql.Identifier(name), sql.SQL(" ".join(words)))

    def _memberships(self) -> Iterator[Change]:
        for member, granted, grantor in self._ask("memberships"):
            text, parts = "REVOKE {} FROM {}", [sql.Identifier(granted), sql.Identifier(member)]
            if self._place.version >= 160_000:
                # The same membership may have been granted by several.
                text, parts = f"{text} GRANTED BY {{}}", [*parts, sql.Identifier(grantor)]
            yield self._say(text, *parts)
        if self._place.rolsuper or self._place.me == self._names.owner:
            return
        # Without the rights of the owner, nobody but a superuser can give it anything.
        modern = self._place.version >= 160_000
        answer = self._ask("is_member", role=self._names.owner, membership="SET" if modern else "MEMBER")
        if not answer or not answer[0][0]:
            yield self._say(
                "GRANT {} TO {}" + (" WITH INHERIT TRUE, SET TRUE" if modern else ""),
                sql.Identifier(self._names.owner),
                sql.Identifier(self._place.me),
            )

    # ---------------------------------------------------------------- owners

    def _owners(self) -> Iterator[Change]:
        owner = sql.Identifier(self._names.owner)
        for row in self._relations:
            # The sequence of a column goes with its table.
            if row.owner != self._names.owner and row.belongs_to is None:
                yield self._say(
                    f"ALTER {_keyword(row.name, row.kind)} {{}} OWNER TO {{}}", self._in_schema(row.name), owner
                )
        for row in self._routines:
            if row.owner != self._names.owner:
                yield self._say("ALTER ROUTINE {} OWNER TO {}", sql.SQL(row.signature), owner)

    def _in_schema(self, name: str) -> sql.Identifier:
        return sql.Identifier(self._place.schema, name)

    # ---------------------------------------------------------------- grants

    def _grants(self, kinds: Collection[str]) -> Iterator[Change]:
        found, wanted = (
            {grant for grant in grants if grant.kind in kinds}
            for grants in (self._found_grants(), self._wanted_grants())
        )
        for revoked in sorted(grant for grant in found - wanted if self._is_too_much(grant)):
            yield self._grant("REVOKE {} ON {} FROM {}", [revoked])
        together: dict[tuple[str, str, str], list[_Grant]] = {}
        for grant in sorted(wanted - found):
            # One statement for all tables of which a role may do the same.
            kind = grant.kind if grant.kind == "relation" else f"{grant.kind} {grant.name}"
            together.setdefault((kind, grant.grantee, grant.privilege), []).append(grant)
        for grants in together.values():
            yield self._grant("GRANT {} ON {} TO {}", grants)

    def _found_grants(self) -> set[_Grant]:
        owners = {row.name: row.owner for row in self._relations} | {row.signature: row.owner for row in self._routines}
        found: set[_Grant] = set()
        for row in self._ask("grants"):
            if row.kind in ("database", "schema"):
                counts = True
            elif row.kind == "default":
                counts = row.name == self._names.owner
            else:
                # What an owner may do goes with the ownership to the next one.
                counts = row.name in owners and owners[row.name] != row.grantee
            if counts:
                found.add(_Grant(row.kind, row.name, row.grantee, row.privilege_type, row.part))
        return found

    def _wanted_grants(self) -> set[_Grant]:
        names, place = self._names, self._place
        wanted = {_Grant("database", place.database, name, "CONNECT") for name in names.all()}
        wanted |= {_Grant("schema", place.schema, name, "USAGE") for name in names.all()}
        wanted.add(_Grant("schema", place.schema, names.owner, "CREATE"))
        for row in self._relations:
            # Columns draw from their sequence whatever the role may do with it.
            if row.kind != "S":
                for role, privileges in may(names, row.name).items():
                    wanted |= {_Grant("relation", row.name, role, privilege) for privilege in privileges}
        for row in self._routines:
            if row.name in WRITER_ROUTINES:
                wanted.add(_Grant("routine", row.signature, names.writer, "EXECUTE"))
        # What the next upgrade makes can be read at once.
        wanted |= {_Grant("default", names.owner, name, "SELECT") for name in (names.writer, names.reader)}
        return wanted

    def _is_too_much(self, grant: _Grant) -> bool:
        """Tell whether a privilege that is not wanted has to go: of everybody's, what ours are not to have by it."""
        if grant.grantee == self._names.owner:
            return False
        if grant.kind in ("database", "schema") and grant.grantee == PUBLIC:
            return grant.privilege in ("CREATE", "TEMPORARY") and not self._wanted.keep_public
        if grant.kind == "routine" and grant.grantee == PUBLIC:
            return any(row.signature == grant.name and row.name in WRITER_ROUTINES for row in self._routines)
        return True

    def _grant(self, text: str, grants: Sequence[_Grant]) -> Change:
        first = grants[0]
        grantee = sql.SQL("PUBLIC") if first.grantee == PUBLIC else sql.Identifier(first.grantee)
        privilege: sql.Composable = sql.SQL(first.privilege)
        if first.kind == "default":
            where: sql.Composable = sql.SQL("TABLES")
            text = "ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {} " + text
            parts = (sql.Identifier(first.name), sql.Identifier(self._place.schema), privilege, where, grantee)
            return self._say(text, *parts)
        if first.kind in ("database", "schema"):
            where = sql.SQL(first.kind.upper() + " {}").format(sql.Identifier(first.name))
        elif first.kind == "routine":
            where = sql.SQL("ROUTINE " + first.name)
        else:
            kinds = {row.name: row.kind for row in self._relations}
            word = "SEQUENCE" if kinds[first.name] == "S" else "TABLE"
            tables = sql.SQL(", ").join(self._in_schema(grant.name) for grant in grants)
            where = sql.SQL(word + " {}").format(tables)
            if first.kind == "column":
                privilege = sql.SQL("{} ({})").format(privilege, sql.Identifier(first.part))
        return self._say(text, privilege, where, grantee)

    # ---------------------------------------------------------------- sessions

    def _settings(self) -> Iterator[Change]:
        found = {(role, name): value for role, name, value in self._ask("settings")}
        for role in self._names.all():
            settings = dict(READER_SETTINGS) if role == self._names.reader else {}
            for name, value in settings.items():
                if found.get((role, name)) != value:
                    yield self._set(role, name, sql.Literal(value))
            # Where tables are found by default, nothing has to be said.
            path = self._place.search_path
            if path != PUBLIC and found.get((role, "search_path")) != path:
                yield self._set(role, "search_path", sql.SQL(path))

    def _set(self, role: str, name: str, value: sql.Composable) -> Change:
        database = sql.Identifier(self._place.database)
        return self._say("ALTER ROLE {} IN DATABASE {} SET " + name + " = {}", sql.Identifier(role), database, value)

    def _passwords(self) -> Iterator[Change]:
        kept: dict[str, str] = {}
        if self._place.rolsuper:
            kept = dict(self._ask("passwords"))
        for role, password in self._wanted.passwords.items():
            if scram.matches(kept.get(role, ""), password):
                continue
            alter = sql.SQL("ALTER ROLE {} PASSWORD ").format(sql.Identifier(role))
            secret = sql.Literal(scram.verifier(self._connection, password, role))
            shown = f"{alter.as_string(self._connection)}{HIDDEN};"
            yield Change(text=shown, statement=sql.Composed([alter, secret]), is_password=True)


def _keyword(name: str, kind: str) -> str:
    """Return what ALTER calls a relation of *kind*, a ``relkind`` of the catalogue."""
    if kind == "v":
        # A continuous aggregate is a view to the server, and none to its extension.
        return "MATERIALIZED VIEW" if name not in VIEWS else "VIEW"
    return {"r": "TABLE", "p": "TABLE", "m": "MATERIALIZED VIEW", "S": "SEQUENCE"}[kind]
