"""
``fleetpulse db roles``: who may do what in a database of the PostgreSQL family.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from fleetpulse.commands.options import Config, DatabaseUrl, Home, settings_of
from fleetpulse.console import note, write
from fleetpulse.database import opened
from storage.errors import SchemaMismatch, SettingsError
from storage.pg import roles as server
from storage.pg.rights import Names

#: The longest of the three names has 63 bytes, which is what PostgreSQL takes.
_PREFIX = re.compile(r"(?!pg_)[a-z][a-z0-9_]{0,55}")


def roles(
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without this flag the plan is printed.")] = False,
    prefix: Annotated[
        str,
        typer.Option("--prefix", metavar="NAME", help="First part of the names: NAME_owner, NAME_writer, NAME_reader."),
    ] = "fleetpulse",
    owner_password_file: Annotated[
        Path | None,
        typer.Option("--owner-password-file", metavar="FILE", show_default=False, help="Password of the owner."),
    ] = None,
    writer_password_file: Annotated[
        Path | None,
        typer.Option("--writer-password-file", metavar="FILE", show_default=False, help="Password of the writer."),
    ] = None,
    reader_password_file: Annotated[
        Path | None,
        typer.Option("--reader-password-file", metavar="FILE", show_default=False, help="Password of the reader."),
    ] = None,
    keep_public: Annotated[
        bool,
        typer.Option(
            "--keep-public",
            help="Let everybody go on making temporary tables in the database, and tables in its schema, who may today.",
        ),
    ] = False,
    config: Config = None,
    database_url: DatabaseUrl = None,
    home: Home = None,
) -> None:
    """
    Make owner, writer and reader with exactly the rights they need: prints the plan, and does it with --apply.
    """
    if not _PREFIX.fullmatch(prefix):
        raise SettingsError(
            f'--prefix is "{prefix}", expected up to 56 small letters, digits and _, a letter first, and not pg_'
        )
    names = Names(owner=f"{prefix}_owner", writer=f"{prefix}_writer", reader=f"{prefix}_reader")
    files = {
        names.owner: ("--owner-password-file", owner_password_file),
        names.writer: ("--writer-password-file", writer_password_file),
        names.reader: ("--reader-password-file", reader_password_file),
    }
    passwords = {role: _password(flag, path) for role, (flag, path) in files.items() if path is not None}
    wanted = server.Wanted(names=names, passwords=passwords, keep_public=keep_public)
    missing = None
    with opened(settings_of(config, database_url, home), check=False) as store:
        changes = server.apply(store.engine, wanted) if apply else server.plan(store.engine, wanted)
        try:
            store.check_schema()
        except SchemaMismatch as exc:
            missing = str(exc)
    for change in changes:
        write(f"{change.text}\n")
    if not changes:
        note("nothing to do: the roles are as they should be")
    elif apply:
        note(f"done: {len(changes)} statements")
    else:
        note("nothing was changed: --apply does it")
    if missing is not None:
        note(f"{missing}; then do this again, for what is in the schema")


def _password(flag: str, path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{flag} {path} cannot be read: {exc}") from exc
    lines = text.splitlines()
    if len(lines) != 1 or not lines[0] or "\0" in lines[0]:
        found = "nothing" if not text.strip() else f"{len(lines)} lines"
        raise SettingsError(f"{flag} {path} holds {found}, expected one line, the password")
    return lines[0]
