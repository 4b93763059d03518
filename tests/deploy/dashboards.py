"""
Grafana's dashboards as the tests see them: their statements, and what Grafana makes of those before it sends them.

Only what the dashboards use is understood; anything else is an error, so that no macro or variable passes unseen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.model import Window

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
PATHS = sorted(FOLDER.glob("*.json"))

#: Value of a variable; one that allows several has a tuple.
Values = Mapping[str, str]

_MACRO = re.compile(r"\$(?P<name>__\w+)\((?P<arguments>[^)]*)\)")
_VARIABLE = re.compile(r"\$\{(?P<name>\w+):(?P<format>\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One statement of a dashboard, and who asks it."""

    dashboard: str
    #: Title of the panel, or kind and name of what else it is.
    title: str
    sql: str
    #: ``time_series`` or ``table``; ``variable`` and ``annotation`` besides.
    format: str
    #: The panel, as in the file.
    panel: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.title}"


def load(path: Path) -> dict[str, Any]:
    """Return the dashboard in *path*."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the panels of *dashboard*."""
    return list(dashboard["panels"])


def variables(path: Path) -> Iterator[Statement]:
    """Yield the statements of the variables in *path*, in the order in which they depend on each other."""
    for each in load(path)["templating"]["list"]:
        yield Statement(
            dashboard=path.stem, title=f"variable {each['name']}", sql=each["query"], format="variable", panel=each
        )


def statements(path: Path) -> Iterator[Statement]:
    """Yield the statements of panels and annotations in *path*."""
    dashboard = load(path)
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield Statement(
                dashboard=path.stem, title=panel["title"], sql=target["rawSql"], format=target["format"], panel=panel
            )
    for each in dashboard["annotations"]["list"]:
        yield Statement(
            dashboard=path.stem,
            title=f"annotation {each['name']}",
            sql=each["target"]["rawSql"],
            format="annotation",
            panel=each,
        )


def expand(sql: str, window: Window, values: Values) -> str:
    """
    Return *sql* as Grafana sends it: first the browser puts values in place of variables, then the server expands macros.

    Args:
        values: Of the variables, by name.
    """
    interpolated = _VARIABLE.sub(lambda match: _formatted(values[match["name"]], match["format"]), sql)
    expanded = _MACRO.sub(lambda match: _macro(match["name"], match["arguments"].strip(), window), interpolated)
    left = re.search(r"\$(?!\d)\S*", expanded)
    assert left is None, f"{left[0]!r} is no macro and no variable that dashboards of this project use"
    return expanded


def _formatted(value: str, form: str) -> str:
    if form == "raw":
        return value
    assert form == "sqlstring", f"format {form!r} of a variable, expected raw or sqlstring"
    return "'" + value.replace("'", "''") + "'"


def _macro(name: str, argument: str, window: Window) -> str:
    # The macros of a PostgreSQL data source. Time stamps are UTC with as many digits as they need, both ends included.
    start, end = (_literal(moment) for moment in (window.start, window.end))
    if name == "__timeFilter":
        assert argument, "$__timeFilter has no column"
        return f"{argument} BETWEEN {start} AND {end}"
    assert not argument, f"${name} takes no argument, found {argument!r}"
    assert name in ("__timeFrom", "__timeTo"), f"${name} is no macro that dashboards of this project use"
    return start if name == "__timeFrom" else end


def _literal(moment: datetime) -> str:
    return f"'{moment.astimezone(UTC).isoformat().replace('+00:00', 'Z')}'"


def unit_of(panel: Mapping[str, Any], column: str) -> str | None:
    """Return the unit that *panel* shows *column* in."""
    config = panel["fieldConfig"]
    for override in config["overrides"]:
        if override["matcher"] == {"id": "byName", "options": column}:
            for each in override["properties"]:
                if each["id"] == "unit":
                    return str(each["value"])
    unit: str | None = config["defaults"].get("unit")
    return unit
