"""
What every repository does in the same way: transactions of its own, tried again where two were in each other's way.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar, overload

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from storage.errors import InputError, PermanentStorageError, StaleVersion, TransientStorageError, UnknownName, shown
from storage.payloads import MAX_ID, check_integer
from storage.schema import require_head
from storage.sqlstate import UNDEFINED, translated
from storage.transactions import transaction, writing

T = TypeVar("T")
Item = TypeVar("Item")

#: Two that make the same name at once (23505), or lock rows in opposite order (40P01), or change what the other has
#: read (40001), or of whom one refers to what the other takes away (23503): the loser does it again and finds what the
#: winner did.
_RACES = ("23505", "23503", "40P01", "40001")
_TRIES = 5

#: Values that one statement lists: SQLite takes 32,766 parameters, PostgreSQL 65,535.
MAX_LISTED = 1_000

#: Of a page that was not asked for by size.
PAGE_SIZE = 100
#: Rows that one answer may have: what a client can hold without thinking.
MAX_PAGE_SIZE = 10_000


class Repository:
    """
    Rows of one kind in one database. Methods are transactions of their own, and raise errors of storage alone.

    Safe to be used by several threads at once: each call takes a connection of the pool.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: Each statement by itself: a transaction around a page would cost two round trips more, and see no less change.
        self._reading = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._writing = writing(engine)

    def _read(self, doing: str, work: Callable[[Session], T]) -> T:
        with self._explained(doing), Session(self._reading, expire_on_commit=False) as session:
            return work(session)

    def _write(self, doing: str, work: Callable[[Session], T]) -> T:
        for left in reversed(range(_TRIES)):
            try:
                with self._explained(doing), transaction(self._writing, doing) as session:
                    return work(session)
            except (PermanentStorageError, TransientStorageError) as exc:
                if not left or exc.sqlstate not in _RACES:
                    raise
        raise AssertionError("BUG: the last try neither returned nor raised")

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Let nothing but errors of storage out of the block: of tables that are missing, that the schema is."""
        try:
            with translated(doing):
                yield
        except TransientStorageError as exc:
            if exc.sqlstate in UNDEFINED:
                require_head(self._engine)
            raise


def pieces(values: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Yield *values* in their order, as many at a time as a statement lists."""
    for start in range(0, len(values), MAX_LISTED):
        yield values[start : start + MAX_LISTED]


class Page(Sequence[Item]):
    """
    Some rows of an answer, and where the next ones begin.

    Attributes:
        after: What to hand over as ``after`` for the next page; ``None`` where this is the last one.
    """

    def __init__(self, items: Sequence[Item], after: int | None) -> None:
        self._items = tuple(items)
        self.after = after

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, place: int) -> Item: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Item]: ...

    def __getitem__(self, place: int | slice) -> Item | Sequence[Item]:
        return self._items[place]

    def __repr__(self) -> str:
        return f"Page({list(self._items)!r}, after={self.after!r})"


def page_of(rows: Sequence[Item], limit: int, key: Callable[[Item], int]) -> Page[Item]:
    """
    Return the page that *rows* are: asked for with one more than *limit*, so that it is known whether there are more.

    Args:
        key: What the rows are ordered by, and what ``after`` is compared with.
    """
    shown = rows[:limit]
    return Page(shown, key(shown[-1]) if len(rows) > limit else None)


def check_limit(limit: object) -> None:
    """
    Insist that *limit* is the size of a page.

    Raises:
        InputError: It is not.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_PAGE_SIZE:
        raise InputError(f"limit is {shown(limit)}, expected 1 to {MAX_PAGE_SIZE}: ask for the next page with after")


def check_after(after: int | None, *, most: int = MAX_ID) -> int:
    """
    Return the id at which a page ends, behind which the next one begins; 0 is the start of a list, as ``None`` is.

    Args:
        most: What the column of ids holds.

    Raises:
        InputError: *after* is nothing that a page says.
    """
    if after is None:
        return 0
    check_integer("after", after, least=0, most=most)
    return after


def check_version(what: str, found: int, expected: int | None) -> None:
    """
    Insist that a row has the version that the caller has read; ``None`` is any.

    Args:
        what: As messages call it: ``task 7 (summarise)``.

    Raises:
        StaleVersion: It has another one.
        InputError: *expected* is no version.
    """
    if expected is None:
        return
    check_integer(f"version of {what}", expected)
    if found != expected:
        raise StaleVersion(what, found=found, expected=expected)


def unknown(kind: str, name: str, known: Iterable[str], *, otherwise: str) -> UnknownName:
    """Return the error about *name*, which is none of *known*: it names those that are called alike, or *otherwise*."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return UnknownName(kind, name, f"did you mean {' or '.join(near)}" if near else otherwise)
