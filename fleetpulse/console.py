"""
What the command line writes where: data to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum

from rich.console import Console, RenderableType

from reports.render import json_value, plain

#: A table that is not on a terminal is as wide as it has to be: whoever reads it cuts it to size.
_UNBOUNDED = 10_000


class ReaderGone(Exception):
    """Who reads standard output has closed it: not an OSError, of which the command line's library makes a failure."""


class TextFormat(StrEnum):
    """Forms of an answer that is not a table of rows."""

    TABLE = "table"
    JSON = "json"


class RowFormat(StrEnum):
    """Forms of an answer of rows."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def stdout() -> Console:
    """Return the console of data: coloured only on a terminal, and not under ``NO_COLOR``."""
    columns = None if sys.stdout.isatty() else _UNBOUNDED
    return Console(file=sys.stdout, width=columns, highlight=False, markup=False, emoji=False)


def show(what: RenderableType) -> None:
    """Write a table or a text to standard output; off a terminal without the spaces and lines that only adorn."""
    console = stdout()
    if console.is_terminal:
        console.print(what)
        return
    with console.capture() as captured:
        console.print(what)
    write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines() if line.strip()))


def width() -> int:
    """Return how many columns a table on standard output may have."""
    return stdout().width


def write(text: str) -> None:
    """
    Write *text* to standard output as it is.

    Raises:
        ReaderGone: Nobody reads it any more.
    """
    try:
        sys.stdout.write(text)
    except BrokenPipeError as exc:
        raise ReaderGone from exc


def write_json(document: object) -> None:
    """Write *document* as JSON to standard output; moments in UTC, NaN as null."""
    write(json.dumps(_jsonable(document), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def note(text: str) -> None:
    """Write one line for people to standard error."""
    sys.stderr.write(f"{text}\n")


def complain(text: str) -> None:
    """Write one line ``error: …`` to standard error."""
    sys.stderr.write(f"error: {' '.join(plain(line) for line in text.splitlines())}\n")


def _jsonable(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _jsonable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(each) for each in value]
    return json_value(value)
