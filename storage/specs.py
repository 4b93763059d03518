"""
What a description of an agent must be like before anything is done with it.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping

from storage.errors import SettingsError
from storage.model import AgentSpec

#: Kinds of probes, and whether one needs an endpoint. ``internal`` is the collector's look at itself.
PROBES = {
    "http": True,
    "tcp": True,
    "process": True,
    "command": True,
    "heartbeat": False,
    "host": False,
    "internal": False,
}

MIN_INTERVAL_S = 1.0
MAX_INTERVAL_S = 86_400.0
MAX_NAME_CHARS = 200
#: A counter that nobody ever reaches is a mistake.
MAX_THRESHOLD = 1_000

#: Headers that carry secrets.
SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "x-auth-token"})

#: Agents of this kind are the daemons themselves.
RESERVED_PREFIX = "fleetpulse/"


def validate_spec(spec: AgentSpec) -> None:
    """
    Insist that *spec* can be stored and polled.

    Options are checked by the probe that reads them; here only that they can be stored, and that an agent out of the
    database makes this machine neither run a command nor read a file.

    Raises:
        SettingsError: The message names agent, key, what was found and what was expected.
    """
    _text(spec, "name", spec.name, required=True)
    _text(spec, "type", spec.type, required=True)
    _text(spec, "credential", spec.credential, required=False)
    if spec.probe not in PROBES:
        raise _error(spec, "probe", spec.probe, f"one of {', '.join(PROBES)}")
    if PROBES[spec.probe] and not spec.endpoint:
        raise _error(spec, "endpoint", spec.endpoint, f"what probe {spec.probe} is pointed at")
    if not _is_clean(spec.endpoint):
        raise _error(spec, "endpoint", spec.endpoint, "text without control characters")
    if not (math.isfinite(spec.interval_s) and MIN_INTERVAL_S <= spec.interval_s <= MAX_INTERVAL_S):
        raise _error(spec, "interval", f"{spec.interval_s:g}s", "1s to 1d")
    if not (math.isfinite(spec.timeout_s) and 0 < spec.timeout_s <= spec.interval_s):
        raise _error(
            spec, "timeout", f"{spec.timeout_s:g}s", f"more than 0s and at most the interval {spec.interval_s:g}s"
        )
    for key, threshold in (("rise", spec.rise), ("fall", spec.fall)):
        if not 1 <= threshold <= MAX_THRESHOLD:
            raise _error(spec, key, threshold, f"1 to {MAX_THRESHOLD}")
    labels: Mapping[str, object] = spec.labels
    for name, value in labels.items():
        if not (isinstance(value, str) and name and _is_clean(name) and _is_clean(value)):
            raise _error(spec, f"labels.{name}", value, "names and values that are text without control characters")
    _insist_no_secret(spec)
    _options(spec)


def is_name(value: str, *, required: bool = True) -> bool:
    """Tell whether *value* can name something: short, printable, and none when it is not *required*."""
    return int(required) <= len(value) <= MAX_NAME_CHARS and _is_clean(value) and value == value.strip()


def _text(spec: AgentSpec, key: str, value: str, *, required: bool) -> None:
    limits = f"{int(required)} to {MAX_NAME_CHARS} characters, none of them a control character, no space at its ends"
    if not is_name(value, required=required):
        raise _error(spec, key, value, limits)


def _is_clean(value: str) -> bool:
    # Cc are control characters, Cs are halves of surrogate pairs, which no UTF-8 can hold.
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in value)


def _insist_no_secret(spec: AgentSpec) -> None:
    """Keep secrets out of the database, where everybody who may read agents would see them."""
    remedy = "a credential of the settings file, named by the agent: what stands here can be read by others"
    authority = spec.endpoint.partition("://")[2].partition("/")[0]
    if ":" in authority.rpartition("@")[0]:
        raise SettingsError(f'agent "{_shown(spec.name)}": endpoint holds a password, expected {remedy}')
    headers = spec.options.get("headers")
    for name in headers if isinstance(headers, Mapping) else ():
        if str(name).lower() in SECRET_HEADERS:
            raise SettingsError(f'agent "{_shown(spec.name)}": options.headers holds {name}, expected {remedy}')


def _options(spec: AgentSpec) -> None:
    try:
        stored = json.dumps(dict(spec.options), allow_nan=False, ensure_ascii=False)
        stored.encode()
    except (TypeError, ValueError) as exc:
        raise _error(spec, "options", dict(spec.options), f"values that JSON can hold ({exc})") from exc
    if "\\u0000" in stored:
        raise _error(spec, "options", dict(spec.options), "text without the character NUL")
    if spec.source != "api":
        return
    remedy = "an agent of the settings file: write access to the database must not become access to this machine"
    if spec.probe == "command":
        raise _error(spec, "probe", spec.probe, remedy)
    for name in spec.options:
        if name.endswith(("file", "files", "command")):
            raise _error(spec, f"options.{name}", spec.options[name], remedy)


def _error(spec: AgentSpec, key: str, found: object, expected: str) -> SettingsError:
    return SettingsError(f'agent "{_shown(spec.name)}": {key} is {found!r}, expected {expected}')


def _shown(name: str) -> str:
    short = name if len(name) <= MAX_NAME_CHARS else f"{name[:40]}…"
    return "".join(character if _is_clean(character) else "?" for character in short)
