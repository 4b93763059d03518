"""
A report as a table of the terminal, made to fit it: names, moments and numbers are whole, or their column is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console
from rich.table import Table

from reports.definition import Column
from reports.render import cell
from reports.run import Report

#: Wider than any table: what a table would take if it could.
_UNBOUNDED = 10_000
#: Units of what is read from the left.
_WORDS = frozenset({"", "utc", "date"})
#: Columns of sentences and lists, which may go on in the next line.
_PROSE = frozenset({"reason", "why", "labels", "critical_path", "endpoint"})
#: Characters below which prose is harder to read than to do without.
_PROSE_LEAST = 16
#: Columns at the beginning that say what a row is about: a table without them says nothing.
_KEYS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A table, and what had no room in it."""

    table: Table
    #: Headings of columns, in their order.
    left_out: tuple[str, ...]


def to_table(report: Report, width: int) -> Fitted:
    """
    Return *report* as a table; durations and ratios in the words of people, moments in the report's zone.

    Where the terminal is too narrow, words of headings stand one above the other, and prose goes on in the next line.
    If that is not enough columns are left out: first what the report can spare, then the last ones.

    Args:
        width: Columns of the terminal.
    """
    places = range(len(report.columns))
    widest = replace(report, rows=[tuple(_widest(report, place) for place in places)])
    if _width(widest, places, stacked=False) <= width:
        return Fitted(table=_table(report, places, stacked=False), left_out=())
    # What goes first stands last.
    spare = [place for place in places[1:] if report.columns[place].spare]
    going = [*(place for place in places[_KEYS:] if place not in spare), *spare]
    chosen, gone = list(places), list[int]()
    while _width(widest, chosen, stacked=True) > width and going:
        gone.append(going.pop())
        chosen.remove(gone[-1])
    # A wide column that had to go has made room for narrow ones that went before it.
    for place in reversed(gone):
        if _width(widest, sorted([*chosen, place]), stacked=True) <= width:
            chosen = sorted([*chosen, place])
    # Names of rows that are wider than the terminal have to go on in the next line.
    folds = _width(widest, chosen, stacked=True) > width
    missing = tuple(_heading(report.columns[place], stacked=False) for place in places if place not in chosen)
    return Fitted(table=_table(report, chosen, stacked=True, folds=folds), left_out=missing)


def blank() -> Table:
    """Return a table without columns, which looks as all of ours do."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")


def left_out(fitted: Fitted) -> str:
    """Return the end of a remark about a table that is not whole; empty where it is."""
    # A duration and its way may have one heading.
    names = ", ".join(dict.fromkeys(fitted.left_out))
    return f"; no room for {names}: --format csv has all" if names else ""


def _widest(report: Report, place: int) -> object:
    """Return the value that takes the most room in its column; ``None`` where there is none."""
    column = report.columns[place]
    values = (row[place] for row in report.rows)
    return max(values, key=lambda value: cell(column, value, report.tz).cell_len, default=None)


def _width(report: Report, chosen: Sequence[int], *, stacked: bool) -> int:
    """Return how much room a table takes at the least; with headings in one line, at ease."""
    most = _PROSE_LEAST if stacked else None
    return Console(width=_UNBOUNDED).measure(_table(report, chosen, stacked=stacked, prose_most=most)).maximum


def _table(
    report: Report, chosen: Sequence[int], *, stacked: bool, folds: bool = False, prose_most: int | None = None
) -> Table:
    table = blank()
    for place in chosen:
        column = report.columns[place]
        prose = column.name in _PROSE
        table.add_column(
            _heading(column, stacked=stacked),
            justify="left" if column.unit in _WORDS else "right",
            vertical="top",
            overflow="fold",
            no_wrap=not (prose or folds),
            max_width=prose_most if prose else None,
        )
    for row in report.rows:
        table.add_row(*(cell(report.columns[place], row[place], report.tz) for place in chosen))
    return table


def _heading(column: Column, *, stacked: bool) -> str:
    name = column.name.replace("_", " ")
    unit = {"ms": " (ms)", "%": ""}.get(column.unit, "")
    told = name.removesuffix(" ms").removesuffix(" s").replace(" percent", " %") + unit
    return told.replace(" ", "\n") if stacked else told
