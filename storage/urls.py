"""
Addresses of databases and agents, fit to be shown.
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


# All that may be a user part: up to the last @, with a scheme before it or without.
_USER_PART = re.compile(r"\A(?P<head>[^/@]*//)?.*@", re.DOTALL)


def hide_user(url: str) -> str:
    """Return *url*, well-formed or not, with user and password hidden, for an address that ought to have neither."""
    return _USER_PART.sub(lambda match: f"{match['head'] or ''}{HIDDEN}@", url)


def redact(url: str) -> str:
    """Return *url*, well-formed or not, with its passwords hidden."""
    return _PARAMETER.sub(rf"\g<head>{HIDDEN}", _USER_PASSWORD.sub(rf"\g<head>{HIDDEN}\g<tail>", url))
