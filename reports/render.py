"""
Values as people read them, and a report as CSV (RFC 4180) or JSON for programs.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, tzinfo
from types import MappingProxyType

from rich.text import Text

from reports.definition import Column
from reports.run import Report

#: How people see a status: colour and symbol, because not everybody sees colour and not every terminal has it.
STATUS_LOOKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "healthy": ("●", "green"),
        "degraded": ("◐", "yellow"),
        "unhealthy": ("✖", "red"),
        "stalled": ("✖", "red"),
        "timeout": ("✖", "red"),
        "refused": ("✖", "red"),
        "error": ("✖", "red"),
        "paused": ("‖", "blue"),
        "skipped": ("·", "dim"),
        "unknown": ("?", "dim"),
        "stale": ("!", "magenta"),
    }
)

_STATUS_COLUMNS = frozenset({"status", "last_outcome", "first_status", "last_status"})


def to_csv(report: Report) -> str:
    """Return *report* as CSV with a header line; moments with the offset of the report's zone, NULL as an empty field."""
    out = io.StringIO(newline="")
    # The module's default dialect is that of RFC 4180: CRLF, quotes only where they are needed.
    writer = csv.writer(out)
    writer.writerow(column.name for column in report.columns)
    for row in report.rows:
        writer.writerow(_csv_value(value, report.tz) for value in row)
    return out.getvalue()


def to_json(report: Report) -> str:
    """
    Return *report* as one JSON object: name, time zone, window, columns with units, rows as objects.

    Moments have the offset of the zone; NULL and NaN are null.
    """
    window, tz = report.window, report.tz
    document = {
        "report": report.name,
        "time_zone": str(tz),
        "window": None if window is None else {"start": iso(window.start, tz), "end": iso(window.end, tz)},
        "columns": [{"name": column.name, "unit": column.unit} for column in report.columns],
        "rows": [
            {column.name: json_value(value, tz) for column, value in zip(report.columns, row, strict=True)}
            for row in report.rows
        ],
    }
    return json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def cell(column: Column, value: object, tz: tzinfo = UTC) -> Text:
    """Return one value as people read it, moments in the time of *tz*."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return Text("–", style="dim")
    if column.name in _STATUS_COLUMNS:
        return status_text(str(value))
    if isinstance(value, datetime):
        return Text(f"{value.astimezone(tz):%Y-%m-%d %H:%M:%S}")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, int | float) and column.unit in _FORMATS:
        return Text(_FORMATS[column.unit](value))
    return Text(plain(str(value)))


def status_text(status: str) -> Text:
    """Return a status with its symbol and colour."""
    symbol, style = STATUS_LOOKS.get(status, ("?", "dim"))
    return Text(f"{symbol} {plain(status)}", style=style)


def plain(text: str) -> str:
    """Return *text* without what a terminal would obey: agents choose their words, not what the screen does."""
    return "".join(character if character.isprintable() else "�" for character in text)


def duration(seconds: float) -> str:
    """Return *seconds* in the two largest units that it has: ``3d 4h``, ``12m 05s``, ``1.5s``."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {whole % 60:02d}s"


def several(n: int, one: str, more: str = "") -> str:
    """Return how many there are of something: ``1 row``, ``1,234 rows``, or *more* where that has another ending."""
    return f"{n:,} {one if n == 1 else more or f'{one}s'}"


def ratio(value: float) -> str:
    """Return a ratio in percent, rounded down: 99.996 % must not read as all."""
    # Nothing but the last digits that a double has is rounded up: ten times the budget is not 999.99 %.
    return f"{math.floor(round(value * 10_000, 6)) / 100:,.2f} %"


def iso(moment: datetime, tz: tzinfo = UTC) -> str:
    """Return *moment* as ISO 8601 with the offset of *tz*, ``Z`` for UTC."""
    text = moment.astimezone(tz).isoformat()
    return text.replace("+00:00", "Z") if str(tz) == "UTC" else text


def json_value(value: object, tz: tzinfo = UTC) -> object:
    """Return *value* as JSON can hold it, moments with the offset of *tz*."""
    if isinstance(value, datetime):
        return iso(value, tz)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _csv_value(value: object, tz: tzinfo) -> object:
    value = json_value(value, tz)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return value


_FORMATS: Mapping[str, Callable[[float], str]] = MappingProxyType(
    {
        "1": lambda value: f"{value:z,.2f}",
        "n": lambda value: f"{value:,}",
        "ratio": ratio,
        "%": lambda value: f"{value:.1f}",
        "ms": lambda value: f"{value:.1f}",
        "s": duration,
        "slots": lambda value: f"{value:,}",
    }
)
