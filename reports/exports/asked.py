"""
Names and values by which rows are chosen, as people hand them over: one, several, or none for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from reports.arguments import is_storable
from storage.errors import InputError, shown


def several(what: str, given: object) -> tuple[Any, ...]:
    """
    Return what may be one or several as several; nothing for ``None``, which asks for all.

    Args:
        what: As messages call it: ``agent``.

    Raises:
        InputError: It is a list of nothing, which asks for nothing and would find everything.
    """
    if given is None:
        return ()
    found = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else (given,)
    if not found:
        raise InputError(f"{what} is an empty list, expected one or more, or None for all")
    return found


def names(what: str, given: object) -> tuple[str, ...]:
    """
    Return the texts *given*, one or several, each once; none for ``None``.

    Raises:
        InputError: One of them is no text, or one that no database can hold.
    """
    found = several(what, given)
    for name in found:
        if not isinstance(name, str):
            raise InputError(f"{what} is {shown(name)}, expected text, a list of it, or None for all")
        _insist_storable(what, name)
    return tuple(dict.fromkeys(map(str, found)))


def type_of(given: object) -> str:
    """
    Return the type of agents *given*; empty for ``None``, which is every one.

    Raises:
        InputError: It is something else than a text.
    """
    if given is None:
        return ""
    if not isinstance(given, str) or not given:
        raise InputError(f"type is {shown(given)}, expected the type of agents, or None for all")
    _insist_storable("type", given)
    return str(given)


def _insist_storable(what: str, text: str) -> None:
    if not is_storable(text):
        raise InputError(f"{what} is {shown(text)}, expected text without NUL and halves of surrogate pairs")
