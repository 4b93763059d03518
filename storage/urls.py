"""
Addresses of databases, fit to be shown.
"""

from __future__ import annotations

import re

#: What stands for a secret that is not shown.
HIDDEN = "***"

# From the first colon of the user part to the last @: a password that was not percent-encoded may hold any character,
# and hiding too much is better than too little.
_USER_PASSWORD = re.compile(r"(?P<head>://[^:/?#@]*:).*(?P<tail>@)", re.DOTALL)
# As parameter of an address, and in libpq's own form (host=… password='…').
_PARAMETER = re.compile(r"(?P<head>\b(?:ssl)?pass(?:word|file)?\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^\s&]*)", re.IGNORECASE)


def redact(url: str) -> str:
    """Return *url*, well-formed or not, with its passwords hidden."""
    return _PARAMETER.sub(rf"\g<head>{HIDDEN}", _USER_PASSWORD.sub(rf"\g<head>{HIDDEN}\g<tail>", url))
