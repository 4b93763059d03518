"""
Named statements out of ``.sql`` files.

A file holds ``-- name --`` lines, each followed by comment lines that describe the statement and by the statement
itself. Identifiers and fragments stand as ``{placeholders}``, values as ``%(name)s`` or ``:name``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

_HEADING = re.compile(r"^-- (?P<name>[a-z0-9_]+) --$", re.MULTILINE)


@cache
def load(package: str, path: str) -> Mapping[str, str]:
    """
    Return the statements of the file *path* inside *package*, by name, comments stripped.

    Raises:
        AssertionError: The file has no statement, or two of one name.
    """
    text = files(package).joinpath(path).read_text(encoding="utf-8")
    headings = list(_HEADING.finditer(text))
    statements: dict[str, str] = {}
    for place, heading in enumerate(headings):
        end = headings[place + 1].start() if place + 1 < len(headings) else len(text)
        lines = text[heading.end() : end].splitlines()
        statement = "\n".join(line for line in lines if not line.lstrip().startswith("--")).strip()
        if heading["name"] in statements:
            raise AssertionError(f"BUG: {path} names {heading['name']} twice")
        statements[heading["name"]] = statement
    if not statements:
        raise AssertionError(f"BUG: {path} holds no named statement")
    return statements
