"""
What callers may hand over to be stored: names, texts and JSON values of tasks, workflows and messages.
"""

from __future__ import annotations

import json
from typing import Any

from storage.errors import InputError
from storage.specs import MAX_NAME_CHARS, is_name

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
        raise InputError(
            f"{what} has {size:,} bytes as JSON, expected at most {MAX_PAYLOAD_BYTES:,}: store it elsewhere and say where"
        )


def check_name(what: str, name: object) -> None:
    """
    Insist that *name* can be that of a task, a workflow or a type.

    Args:
        what: As messages call it: ``name of a task``.

    Raises:
        InputError: It cannot.
    """
    if not isinstance(name, str) or not is_name(name):
        shown = ascii(name if not isinstance(name, str) or len(name) <= MAX_NAME_CHARS else f"{name[:40]}…")
        raise InputError(
            f"{what} is {shown}, expected 1 to {MAX_NAME_CHARS} characters, none of them a control character, "
            "no space at its ends"
        )


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
    _check_characters(what, value)


def check_integer(what: str, value: object, *, least: int = -MAX_INTEGER) -> None:
    """
    Insist that *value* is a whole number that a column holds.

    Args:
        what: As messages call it: ``priority of a task``.

    Raises:
        InputError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_INTEGER:
        raise InputError(f"{what} is {value!r}, expected a whole number from {least} to {MAX_INTEGER}")


def _check_parts(what: str, value: object) -> None:
    left: list[tuple[str, Any, int]] = [("", value, 1)]
    while left:
        place, part, depth = left.pop()
        if isinstance(part, str):
            _check_characters(f"{what}{_at(place)}", part)
            continue
        if part is None or isinstance(part, bool | int | float):
            continue
        if depth > MAX_PAYLOAD_DEPTH:
            raise InputError(f"{what} has more than {MAX_PAYLOAD_DEPTH} levels, expected fewer")
        if isinstance(part, dict):
            for key, inner in part.items():
                if not isinstance(key, str):
                    # The JSON encoder would write the number 1 as the text "1" without a word.
                    raise InputError(f"{what}{_at(place)} has the key {key!r}, {_REMEDY}")
                _check_characters(f"{what}{_at(place)}, a key,", key)
                left.append((f"{place}.{key}", inner, depth + 1))
        elif isinstance(part, list):
            left.extend((f"{place}[{number}]", inner, depth + 1) for number, inner in enumerate(part))
        else:
            raise InputError(f"{what}{_at(place)} is of type {type(part).__name__}, {_REMEDY}")


def _check_characters(what: str, value: str) -> None:
    if "\0" in value:
        raise InputError(f"{what} holds the character NUL, expected text without it")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise InputError(
            f"{what} holds half of a surrogate pair at character {exc.start}, expected text that UTF-8 can hold"
        ) from exc


def _at(place: str) -> str:
    return f" at {ascii(place.removeprefix('.'))[1:-1]}" if place else ""
