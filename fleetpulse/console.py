"""
What the command line writes where: data to standard output, everything else to standard error.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from reports.render import json_value, plain

#: A table that is not on a terminal is as wide as it has to be: whoever reads it cuts it to size.
_UNBOUNDED = 10_000
#: What errors call it.
STANDARD_OUTPUT = "standard output"


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
    with _standard_output():
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
        OSError: It cannot be written, to a disk that is full for instance.
    """
    with _standard_output():
        sys.stdout.write(text)


def flush() -> None:
    """
    Write what is kept back of standard output.

    Raises:
        ReaderGone: Nobody reads it any more.
        OSError: It cannot be written.
    """
    with _standard_output():
        sys.stdout.flush()


@contextmanager
def _standard_output() -> Iterator[None]:
    """Have what goes wrong in the block say where it did."""
    try:
        yield
    except BrokenPipeError as exc:
        raise ReaderGone from exc
    except OSError as exc:
        raise OSError(exc.errno or errno.EIO, exc.strerror or str(exc), STANDARD_OUTPUT) from exc


def give_up() -> None:
    """Have what is still kept back of standard output go nowhere: the interpreter would try again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def show_facts(facts: Mapping[str, str | Text]) -> None:
    """Write one line for each of *facts*, its name in front; where a line is too long it goes on below its beginning."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, said in facts.items():
        grid.add_row(name, Text(said) if isinstance(said, str) else said)
    show(grid)


def write_json(document: object) -> None:
    """Write *document* as JSON to standard output; moments in UTC, NaN as null."""
    write(json.dumps(_jsonable(document), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def note(text: str) -> None:
    """Write one line for people to standard error; on a terminal it goes on in the next where words end."""
    if sys.stderr is not None and sys.stderr.isatty():
        # Some terminals do not know how wide they are.
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or _UNBOUNDED
        text = textwrap.fill(text, columns, break_long_words=False, break_on_hyphens=False)
    _say(text)


def complain(text: str) -> None:
    """Write one line ``error: …`` to standard error."""
    _say(f"error: {' '.join(plain(line) for line in text.splitlines())}")


def _say(text: str) -> None:
    # Where it is closed nobody wants to know.
    if sys.stderr is not None:
        sys.stderr.write(f"{text}\n")


def _jsonable(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _jsonable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(each) for each in value]
    return json_value(value)
