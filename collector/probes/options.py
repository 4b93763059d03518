"""
The free-form options of an agent, read once and strictly: what is not understood is an error, never ignored.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from storage.errors import SettingsError
from storage.model import AgentSpec


class Options:
    """
    The options of one agent, each to be taken once.

    Raises:
        SettingsError: By every method, naming agent, option, what was found and what was expected.
    """

    def __init__(self, spec: AgentSpec, names: Collection[str]) -> None:
        self._agent = spec.name
        self._options = spec.options
        for name in spec.options:
            if name not in names:
                near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
                hint = f'did you mean "{near[0]}"' if near else f"expected one of {', '.join(sorted(names)) or 'none'}"
                raise SettingsError(f'agent "{spec.name}" has unknown option "{name}" for probe {spec.probe}: {hint}')

    def error(self, name: str, expected: str) -> SettingsError:
        """Return the error that option *name* is not what was *expected*."""
        found = self._options.get(name)
        return SettingsError(f'agent "{self._agent}" option "{name}" is {found!r}: expected {expected}')

    def __contains__(self, name: str) -> bool:
        return name in self._options

    def text(self, name: str, default: str = "") -> str:
        """Return a text."""
        value = self._options.get(name, default)
        if not isinstance(value, str):
            raise self.error(name, "a text")
        return value

    def choice(self, name: str, choices: Collection[str], default: str) -> str:
        """Return one of *choices*."""
        value = self._options.get(name, default)
        if not isinstance(value, str) or value not in choices:
            raise self.error(name, f"one of {', '.join(choices)}")
        return value

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return true or false."""
        value = self._options.get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def count(self, name: str, default: int, *, low: int = 0, high: int = 2**40) -> int:
        """Return a whole number within bounds, both included."""
        value = self._options.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(name, f"a whole number from {low} to {high}")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a list of texts; none where it is missing."""
        value = self._options.get(name, [])
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise self.error(name, "a list of texts")
        return list(value)

    def table(self, name: str) -> dict[str, str]:
        """Return a table of texts; an empty one where it is missing."""
        value = self._options.get(name, {})
        if not isinstance(value, Mapping) or not all(isinstance(v, str) for pair in value.items() for v in pair):
            raise self.error(name, "a table of texts")
        return dict(value)

    def raw(self, name: str) -> object:
        """Return whatever is there, ``None`` where nothing is."""
        return self._options.get(name)
