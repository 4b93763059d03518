"""
What callers hand over, judged before anything is asked: a mistake is told in words instead of by whatever breaks first.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TypeVar

from storage.batch import END_US, objection
from storage.errors import InputError, InvalidWindow, shown
from storage.model import EPOCH, Window, from_us

#: Where windows may lie: rows are dated in these years, and every window can be widened to whole days of any zone.
REACH = Window(EPOCH, from_us(END_US))

Value = TypeVar("Value")


def insist_type(what: str, value: object, wanted: type, expected: str) -> None:
    """
    Insist that *value* is of type *wanted*; flags are no numbers.

    Args:
        what: As messages call it: ``filter agent``.
        expected: What stands for the type in the message.

    Raises:
        InputError: It is of another one.
    """
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise InputError(f"{what} is {shown(value)}, expected {expected}")


def insist_store(store: object) -> None:
    """
    Insist that *store* is one.

    Raises:
        InputError: It is not; the likeliest mistake is to hand over what has one.
    """
    # The protocol cannot be asked: that would read its properties, which connect.
    if callable(getattr(type(store), "query", None)):
        return
    if hasattr(type(store), "store"):
        raise InputError(f"store is a {type(store).__name__}, expected a Store: hand over its .store")
    raise InputError(f"store is {shown(store)}, expected a Store, such as DatabaseManager(url).store")


def insist_window(window: object) -> None:
    """
    Insist that *window* is one, of years in which there can be rows.

    Raises:
        InputError: It is none.
        InvalidWindow: It begins or ends in another year.
    """
    if not isinstance(window, Window):
        raise InputError(f"window is {shown(window)}, expected Window(start, end)")
    if not (REACH.start <= window.start and window.end <= REACH.end):
        raise InvalidWindow(
            f"window is {window.start.isoformat()} to {window.end.isoformat()}, "
            f"expected moments in the years {REACH.start.year} to {REACH.end.year - 1}"
        )


def mapping(what: str, given: Mapping[str, Value] | None, example: str) -> dict[str, Value]:
    """
    Return what was *given* by name; nothing for ``None``.

    Args:
        what: As messages call it: ``filters``.
        example: How one is written.

    Raises:
        InputError: It is no mapping.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"{what} are {shown(given)}, expected names with their values, such as {example}")
    return dict(given)


def is_storable(text: str) -> bool:
    """Tell whether a database could hold *text*: it has neither the character NUL nor half of a surrogate pair."""
    return not objection(text, sys.maxsize)
