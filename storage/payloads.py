"""
What callers may hand over to be stored: names, texts and JSON values of tasks, workflows and messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from storage.errors import InputError, quoted, shown
from storage.names import MAX_NAME_CHARS, is_name

T = TypeVar("T")

#: Of a payload or result as UTF-8: what belongs into a file or an object store is named here, not kept here.
MAX_PAYLOAD_BYTES = 1_000_000
#: Lists and objects in each other. Python's own limit is near 1,000, and depends on who calls.
MAX_PAYLOAD_DEPTH = 100
#: Of identities of what grows, and of other whole numbers: what their columns hold.
MAX_ID = 2**63 - 1
MAX_INTEGER = 2**31 - 1
#: Of a reason: room for the traceback of whatever failed.
MAX_TEXT_CHARS = 100_000

_REMEDY = "expected JSON: objects with text as keys, lists, text, finite numbers, true, false or null"


def check_payload(what: str, value: object) -> None:
    """
    Insist that *value* is JSON as every engine can keep it.

    What is read is what was written, but for numbers beyond 2^53: JSON has one kind of number, and PostgreSQL answers
    1e+16 as the whole number that it is.

    Args:
        what: As messages call it: ``payload of task "summarise"``.

    Raises:
        InputError: It is not, or too long; the message names the place.
    """
    _check_parts(what, value)
    try:
        size = len(json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode())
    except (TypeError, ValueError) as exc:
        # Numbers that are not finite, whole numbers of more digits than Python writes.
        raise InputError(f"{what} cannot be stored: {str(exc).lower()}, {_REMEDY}") from exc
    if size > MAX_PAYLOAD_BYTES:
        raise _too_long(what, f"{size:,}")


def check_name(what: str, name: object) -> None:
    """
    Insist that *name* can be that of a task, a workflow or a type.

    Args:
        what: As messages call it: ``name of a task``.

    Raises:
        InputError: It cannot.
    """
    if not is_name(name):
        raise InputError(
            f"{what} is {shown(name)}, expected 1 to {MAX_NAME_CHARS} characters, none of them a control character, "
            "no space at its ends"
        )


def check_filter(what: str, name: object) -> None:
    """
    Insist that *name*, which somebody looks for, can be that of something; ``None`` is any.

    Raises:
        InputError: It cannot.
    """
    if name is not None:
        check_name(what, name)


def several(what: str, values: object, kind: type[T]) -> list[T]:
    """
    Return *values*, which are several of *kind*, as a list.

    Args:
        what: As messages call them: ``specs``.

    Raises:
        InputError: They are none, or one of them is something else.
    """
    # Characters of a text, and keys, would be taken for what was meant.
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        expected = f"a list of {what if kind is str else kind.__name__}"
        example = f": write [{quoted(values)}]" if isinstance(values, kind) else ""
        raise InputError(f"{what} is {quoted(values)}, expected {expected}{example}")
    found = list(values)
    for place, value in enumerate(found):
        if not isinstance(value, kind):
            raise InputError(f"{what}[{place}] is {shown(value)}, expected {'text' if kind is str else kind.__name__}")
    return found


def check_text(what: str, value: object) -> None:
    """
    Insist that *value* is text that every engine can keep, line breaks included.

    Args:
        what: As messages call it: ``reason``.

    Raises:
        InputError: It is not, or too long.
    """
    if not isinstance(value, str):
        raise InputError(f"{what} is of type {type(value).__name__}, expected text")
    if len(value) > MAX_TEXT_CHARS:
        raise InputError(f"{what} has {len(value):,} characters, expected at most {MAX_TEXT_CHARS:,}")
    if flaw := _flaw(value):
        raise InputError(f"{what} holds {flaw}")


def check_integer(what: str, value: object, *, least: int = -MAX_INTEGER, most: int = MAX_INTEGER) -> None:
    """
    Insist that *value* is a whole number that a column holds.

    Args:
        what: As messages call it: ``priority of a task``.

    Raises:
        InputError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{what} is {shown(value)}, expected a whole number from {least} to {most}")


def check_flag(what: str, value: object) -> None:
    """
    Insist that *value* is true or false, and nothing that passes for one of them.

    Raises:
        InputError: It is not.
    """
    if not isinstance(value, bool):
        raise InputError(f"{what} is {shown(value)}, expected True or False")


def alike(first: object, second: object) -> bool:
    """Tell whether two values are the same JSON: to Python 1, 1.0 and True are equal, within lists and objects too."""
    if not isinstance(first, dict | list):
        return first == second
    return first == second and json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


#: As a tuple: to ask for one of a union takes three times as long.
_WHOLES = (dict, list)


class _Whole(NamedTuple):
    """A list or an object within a payload, and where it stands."""

    parent: _Whole | None
    #: Its name or number in *parent*.
    key: str | int
    value: Any
    #: Levels around it.
    depth: int


def _check_parts(what: str, value: object) -> None:
    # Before the JSON encoder, which writes what is shared as often as it stands there, and so could fill all memory.
    size = 0
    left = [_Whole(None, "", [value], 0)]
    while left:
        whole = left.pop()
        is_object = isinstance(whole.value, dict)
        parts: Iterable[tuple[Any, Any]] = whole.value.items() if is_object else enumerate(whole.value)
        for key, part in parts:
            # Never more than it takes as JSON.
            size += 1
            if is_object:
                if not isinstance(key, str):
                    # The JSON encoder would write the number 1 as the text "1" without a word.
                    raise InputError(f"{what}{_at(whole)} has the key {shown(key)}, {_REMEDY}")
                size += len(key)
                if flaw := _flaw(key):
                    raise InputError(f"{what}{_at(whole)}, a key, holds {flaw}")
            if isinstance(part, str):
                size += len(part)
                if flaw := _flaw(part):
                    raise InputError(f"{what}{_at(whole, key)} holds {flaw}")
            elif isinstance(part, int):
                size += part.bit_length() // 8
            elif isinstance(part, _WHOLES):
                if whole.depth == MAX_PAYLOAD_DEPTH:
                    raise InputError(f"{what} has more than {MAX_PAYLOAD_DEPTH} levels, expected fewer")
                left.append(_Whole(whole, key, part, whole.depth + 1))
            elif part is not None and not isinstance(part, float):
                raise InputError(f"{what}{_at(whole, key)} is of type {type(part).__name__}, {_REMEDY}")
            if size > MAX_PAYLOAD_BYTES:
                raise _too_long(what, f"more than {MAX_PAYLOAD_BYTES:,}")


def _too_long(what: str, found: str) -> InputError:
    return InputError(
        f"{what} has {found} bytes as JSON, expected at most {MAX_PAYLOAD_BYTES:,}: store it elsewhere and say where"
    )


def _flaw(value: str) -> str:
    """Return what keeps *value* from being stored, and what was expected; empty where nothing does."""
    if "\0" in value:
        return "the character NUL, expected text without it"
    # ASCII is the rule, and the cheapest thing to ask.
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            return f"half of a surrogate pair at character {exc.start}, expected text that UTF-8 can hold"
    return ""


def _at(whole: _Whole, *key: str | int) -> str:
    """Return where something stands: what has *key* in *whole*, or that itself."""
    keys = [*key]
    parent: _Whole | None = whole
    while parent is not None:
        keys.append(parent.key)
        parent = parent.parent
    # The last two are of the list that the payload was put into.
    place = "".join(f"[{each}]" if isinstance(each, int) else f".{shown(each)[1:-1]}" for each in keys[-3::-1])
    return f" at {place.removeprefix('.')}" if place else ""
