"""
What a description of an agent must be like before anything is done with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from storage.errors import InputError, SettingsError, shown
from storage.model import AgentSpec
from storage.names import MAX_NAME_CHARS, is_clean, is_name
from storage.payloads import check_payload

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
    if spec.probe not in list(PROBES):
        raise _error(spec, "probe", spec.probe, f"one of {', '.join(PROBES)}")
    if not is_clean(spec.endpoint):
        raise _error(spec, "endpoint", spec.endpoint, "text without control characters")
    if PROBES[spec.probe] and not spec.endpoint:
        raise _error(spec, "endpoint", spec.endpoint, f"what probe {spec.probe} is pointed at")
    interval_s, timeout_s = _seconds(spec, "interval", spec.interval_s), _seconds(spec, "timeout", spec.timeout_s)
    if not MIN_INTERVAL_S <= interval_s <= MAX_INTERVAL_S:
        raise _error(spec, "interval", f"{interval_s:g}s", "1s to 1d")
    if not 0 < timeout_s <= interval_s:
        raise _error(spec, "timeout", f"{timeout_s:g}s", f"more than 0s and at most the interval {interval_s:g}s")
    _threshold(spec, "rise", spec.rise)
    _threshold(spec, "fall", spec.fall)
    _labels(spec, spec.labels)
    _options(spec, spec.options)
    _flag(spec, "paused", spec.paused)
    _insist_no_secret(spec)


def _text(spec: AgentSpec, key: str, value: object, *, required: bool) -> None:
    limits = f"{int(required)} to {MAX_NAME_CHARS} characters, none of them a control character, no space at its ends"
    if not is_name(value, required=required):
        raise _error(spec, key, value, limits)


def _seconds(spec: AgentSpec, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _error(spec, key, value, "a number of seconds")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _threshold(spec: AgentSpec, key: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_THRESHOLD:
        raise _error(spec, key, value, f"1 to {MAX_THRESHOLD}")


def _flag(spec: AgentSpec, key: str, value: object) -> None:
    if not isinstance(value, bool):
        raise _error(spec, key, value, "True or False")


def _labels(spec: AgentSpec, labels: object) -> None:
    if not isinstance(labels, Mapping):
        raise _error(spec, "labels", labels, "a mapping of text to text")
    for name, value in labels.items():
        if not (name and is_clean(name) and is_clean(value)):
            raise _error(
                spec, f"labels.{_shown(name)}", value, "names and values that are text without control characters"
            )


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


def _options(spec: AgentSpec, options: object) -> None:
    if not isinstance(options, Mapping):
        raise _error(spec, "options", options, "a mapping of names to values that JSON can hold")
    try:
        check_payload("options", dict(options))
    except InputError as exc:
        raise _error(spec, "options", options, f"values that JSON can hold ({exc})") from exc
    if spec.source != "api":
        return
    remedy = "an agent of the settings file: write access to the database must not become access to this machine"
    if spec.probe == "command":
        raise _error(spec, "probe", spec.probe, remedy)
    for name in options:
        if name.endswith(("file", "files", "command")):
            raise _error(spec, f"options.{_shown(name)}", options[name], remedy)


def _error(spec: AgentSpec, key: str, found: object, expected: str) -> SettingsError:
    return SettingsError(f'agent "{_shown(spec.name)}": {key} is {shown(found)}, expected {expected}')


def _shown(name: object) -> str:
    if not isinstance(name, str):
        return shown(name)
    short = name if len(name) <= MAX_NAME_CHARS else f"{name[:40]}…"
    return "".join(character if is_clean(character) else "?" for character in short)
