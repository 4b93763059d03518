"""
What can be a name, of whatever it is.
"""

from __future__ import annotations

import unicodedata

MAX_NAME_CHARS = 200


def is_name(value: object, *, required: bool = True) -> bool:
    """Tell whether *value* can name something: short, printable, and none when it is not *required*."""
    if not isinstance(value, str) or not int(required) <= len(value) <= MAX_NAME_CHARS:
        return False
    return is_clean(value) and value == value.strip()


def is_clean(value: object) -> bool:
    """Tell whether *value* is text without control characters and halves of surrogate pairs, which no UTF-8 can hold."""
    if not isinstance(value, str):
        return False
    # What Python calls printable has neither, and is nearly everything.
    return value.isprintable() or not any(unicodedata.category(character) in ("Cc", "Cs") for character in value)
