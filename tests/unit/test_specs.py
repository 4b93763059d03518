"""
What a description of an agent must be like.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from storage.errors import SettingsError
from storage.model import AgentSpec
from storage.specs import PROBES, validate_spec

GOOD = AgentSpec(name="a", endpoint="http://127.0.0.1/")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"name": "é" * 200},
        {"name": "two words / and : signs"},
        {"probe": "host", "endpoint": ""},
        {"interval_s": 1.0, "timeout_s": 1.0},
        {"interval_s": 86_400.0, "timeout_s": 0.001},
        {"rise": 1, "fall": 1000},
        {"labels": {"zone": "", "é": "ü"}},
        {"options": {"headers": {"X-A": "b"}, "expect_status": [200, 204], "send": "a\nb"}},
        {"probe": "command", "endpoint": "id"},
        {"options": {"pid_file": "/run/x.pid"}},
        {"source": "api"},
    ],
)
def test_good(changes: dict[str, object]) -> None:
    """What makes sense is accepted, at the edges too."""
    validate_spec(replace(GOOD, **changes))  # type: ignore[arg-type]  # fields of AgentSpec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "agent \"\": name is '', expected 1 to 200 characters"),
        ({"name": "x" * 201}, "name is 'xxx"),
        ({"name": " a"}, "name is ' a'"),
        ({"name": "a\nb"}, "agent \"a?b\": name is 'a\\nb'"),
        ({"name": "a\x00"}, "name is"),
        ({"name": "a\udc80"}, "name is"),
        ({"type": ""}, "type is '', expected 1 to 200"),
        ({"credential": "a\tb"}, "credential is"),
        ({"probe": "icmp"}, f"probe is 'icmp', expected one of {', '.join(PROBES)}"),
        ({"endpoint": ""}, "endpoint is '', expected what probe http is pointed at"),
        ({"endpoint": "http://a/\r\nX: y"}, "endpoint is"),
        ({"interval_s": 0.5}, "interval is '0.5s', expected 1s to 1d"),
        ({"interval_s": 86_401.0}, "interval is '86401s', expected 1s to 1d"),
        ({"interval_s": float("nan")}, "interval is 'nans'"),
        ({"timeout_s": 0.0}, "timeout is '0s', expected more than 0s and at most the interval 15s"),
        ({"timeout_s": 15.1}, "timeout is '15.1s'"),
        ({"timeout_s": float("nan")}, "timeout is 'nans'"),
        ({"rise": 0}, "rise is 0, expected 1 to 1000"),
        ({"fall": 1001}, "fall is 1001"),
        ({"labels": {"": "x"}}, "labels. is 'x'"),
        ({"labels": {"a": "\x00"}}, "labels.a is"),
        ({"labels": {"a": 1}}, "labels.a is 1"),
        ({"options": {"x": float("inf")}}, "options is"),
        ({"options": {"x": object()}}, "options is"),
        ({"options": {"x": "\x00"}}, "options at x holds the character NUL"),
        ({"options": {"x": "\ud800"}}, "options is"),
        ({"options": {1: 2}}, "options has the key 1"),
        ({"options": None}, "options is None, expected a mapping"),
        ({"name": None}, 'agent "None": name is None, expected 1 to 200 characters'),
        ({"endpoint": None}, "endpoint is None, expected text"),
        ({"interval_s": "15"}, "interval is '15', expected a number of seconds"),
        ({"interval_s": 10**400}, "interval is 'infs', expected 1s to 1d"),
        ({"rise": 1.5}, "rise is 1.5, expected 1 to 1000"),
        ({"rise": True}, "rise is True, expected 1 to 1000"),
        ({"labels": [1]}, "labels is [1], expected a mapping of text to text"),
        ({"labels": {1: "a"}}, "labels.1 is 'a'"),
        ({"paused": 1}, "paused is 1, expected True or False"),
        ({"source": "api", "probe": "command"}, "probe is 'command', expected an agent of the settings file"),
        ({"source": "api", "options": {"token_file": "/etc/shadow"}}, "options.token_file is '/etc/shadow'"),
    ],
)
def test_bad(changes: dict[str, object], message: str) -> None:
    """What does not is an error that names agent, key, what was found and what was expected."""
    with pytest.raises(SettingsError) as caught:
        validate_spec(replace(GOOD, **changes))  # type: ignore[arg-type]  # fields of AgentSpec

    assert message in str(caught.value)
