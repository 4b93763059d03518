"""
The settings file, and where in it (or in the environment, or on the command line) a wrong value stands.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from storage.errors import SettingsError
from storage.urls import redact

_AGENT_HEADING = re.compile(r"^[ \t]*\[\[[ \t]*agents[ \t]*\]\]", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsFile:
    """What was read."""

    #: ``None`` when there is no file.
    path: Path | None = None
    #: Its tables, as TOML gives them.
    data: dict[str, Any] = field(default_factory=dict)
    #: Line of each ``[[agents]]``, from 1; empty when agents are written in another form.
    agent_lines: tuple[int, ...] = ()


def read_file(path: Path | None) -> SettingsFile:
    """
    Read *path*; nothing for ``None``.

    Raises:
        SettingsError: It cannot be read, or is not TOML.
    """
    if path is None:
        return SettingsFile()
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as exc:
        raise SettingsError(f"settings file {path} cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise SettingsError(f"settings file {path} is not UTF-8: {exc.reason} at byte {exc.start}") from exc
    except tomllib.TOMLDecodeError as exc:
        said = str(exc)
        raise SettingsError(f"settings file {path} is not TOML: {said[:1].lower()}{said[1:]}") from exc
    lines = tuple(text.count("\n", 0, found.start()) + 1 for found in _AGENT_HEADING.finditer(text))
    agents = data.get("agents")
    if not isinstance(agents, list) or len(lines) != len(agents):
        lines = ()
    return SettingsFile(path=path.absolute(), data=data, agent_lines=lines)


def read_environment(prefix: str, sections: Sequence[str]) -> dict[str, Any]:
    """Return what the environment sets, nested as in the file: ``<prefix>HOME`` and ``<prefix><SECTION>_<KEY>``."""
    data: dict[str, Any] = {}
    for name, value in os.environ.items():
        key = name.removeprefix(prefix).lower()
        if key == name.lower() or not value:
            # Another program's, or set to nothing, which is how a variable is taken back.
            continue
        if key == "home":
            data["home"] = value
        for section in sections:
            if key.startswith(f"{section}_"):
                data.setdefault(section, {})[key.removeprefix(f"{section}_")] = value
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where settings came from: command line, environment and file, in the order in which they count."""

    #: What the command line said, nested as in the file; likewise the environment.
    overrides: Mapping[str, Any]
    environment: Mapping[str, Any]
    file: SettingsFile
    #: Of environment variables.
    prefix: str

    def agent(self, number: int) -> str:
        """Return where agent *number*, from 0, stands."""
        if number < len(self.file.agent_lines):
            return f"{self.file.path} line {self.file.agent_lines[number]}"
        return f"{self.file.path or 'settings'} agent {number + 1}"

    def of(self, key: Sequence[str | int]) -> str:
        """Return where *key* stands."""
        if _find(self.overrides, key) is not None:
            return "command line"
        if _find(self.environment, key) is not None:
            return f"variable {self.prefix}{'_'.join(str(part) for part in key).upper()}"
        if len(key) > 1 and key[0] == "agents" and isinstance(key[1], int):
            return self.agent(key[1])
        return str(self.file.path or "settings")

    def value(self, key: Sequence[str | int]) -> object:
        """Return the value of *key* as it was written, ``None`` where it stands nowhere."""
        for layer in (self.overrides, self.environment, self.file.data):
            if (found := _find(layer, key)) is not None:
                return found
        return None


def describe(error: ValidationError, model: type[BaseModel], place: Place) -> SettingsError:
    """Return the first thing that is wrong as one line: place, key, what was found, what was expected."""
    errors = error.errors(include_url=False)
    # A key that is misspelt is the reason of others that are missing.
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    key = first["loc"]
    text = f"{place.of(key)}: {_message(first, model, place)}"
    return SettingsError(text if len(errors) == 1 else f"{text} (and {len(errors) - 1} more)")


#: What pydantic expects, by the type of its error; the rest is said in its own words.
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "path_type": "a path",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} of them",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
}


def _message(error: ErrorDetails, model: type[BaseModel], place: Place) -> str:
    key = error["loc"]
    shown = _shown_key(key)
    if error["type"] == "extra_forbidden":
        names = _names(model, key[:-1])
        near = difflib.get_close_matches(str(key[-1]), names, n=1, cutoff=0.5)
        hint = f'did you mean "{near[0]}"' if near else f"expected one of {', '.join(names)}"
        return f"unknown key {shown}: {hint}"
    if error["type"] == "missing":
        return f"{shown} is missing"
    if error["type"] == "value_error":
        said = str(error["ctx"]["error"])
        if not said.startswith("expected "):
            # A rule about a whole table: it names its keys itself.
            return f"{shown}: {said}"
        said = said.removeprefix("expected ")
    else:
        own = error["msg"][:1].lower() + error["msg"][1:]
        said = _EXPECTED[error["type"]].format(**error.get("ctx", {})) if error["type"] in _EXPECTED else own
    return f"{shown} is {_shown_value(place.value(key))}, expected {said}"


def _shown_key(key: Sequence[str | int]) -> str:
    text = ""
    for part in key:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _shown_value(value: object) -> str:
    # Passwords stand in addresses, and anything may stand in a table.
    if isinstance(value, str):
        return f'"{redact(value)}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    return (
        "a table" if isinstance(value, Mapping) else "a list" if isinstance(value, list | tuple) else "of no known type"
    )


def _find(data: object, key: Sequence[str | int]) -> object:
    for part in key:
        if isinstance(part, int):
            if not isinstance(data, list | tuple) or part >= len(data):
                return None
            data = data[part]
        elif isinstance(data, Mapping) and part in data:
            data = data[part]
        else:
            return None
    return data


def _names(model: type[BaseModel], key: Sequence[str | int]) -> list[str]:
    """Return the keys of the table at *key*."""
    found = _table(model, [part for part in key if isinstance(part, str)])
    return sorted(info.alias or name for name, info in found.model_fields.items())


def _table(model: type[BaseModel], parts: Sequence[str]) -> type[BaseModel]:
    for info_name, info in model.model_fields.items():
        if parts and (info.alias or info_name) == parts[0]:
            for inner in (info.annotation, *get_args(info.annotation)):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    return inner
    return model
