"""
Tables of reports on terminals of any width: names, moments and numbers are whole, and what has no room is named.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from rich.console import Console

from reports.catalogue import CATALOGUE
from reports.definition import Column, columns
from reports.run import Report
from reports.table import Fitted, left_out, to_table

NAME = "summariser-eu-1"
MOMENT = datetime(2026, 11, 23, 19, 16, 40, tzinfo=UTC)
WORDS = "connection refused by host"
SENTENCES = ("reason", "why", "labels", "critical_path")


def value(column: Column) -> object:
    """Return a usual value of *column*."""
    if column.flag:
        return True
    if column.name in SENTENCES:
        return WORDS
    if "status" in column.name or column.name.endswith("outcome"):
        return "unhealthy"
    if column.name in ("state", "workflow_state"):
        return "completed"
    if column.name in ("type", "task_type", "workflow_type", "part", "unit"):
        return "summarise"
    return {"utc": MOMENT, "date": date(2026, 11, 23), "": NAME, "ratio": 0.9876, "s": 4000.0, "id": 1234567}.get(
        column.unit, 12345
    )


def answer(name: str) -> Report:
    """Return an answer of the report *name*, two rows of usual values."""
    found = CATALOGUE[name].columns
    return Report(name=name, columns=found, rows=[tuple(map(value, found))] * 2, window=None)


def lines(fitted: Fitted, width: int) -> list[str]:
    """Return what is printed."""
    console = Console(width=width)
    with console.capture() as captured:
        console.print(fitted.table)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 132])
@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_what_a_table_shows_is_whole(name: str, width: int) -> None:
    """No name, moment, number or heading is cut or folded; what a row is about is there; every column is accounted for."""
    report = answer(name)
    fitted = to_table(report, width)
    printed = lines(fitted, width)
    said = [column.header for column in fitted.table.columns]

    assert all(len(line) <= width for line in printed)
    head = printed.index(next(line for line in printed if "──" in line))
    headings = " ".join(printed[:head]).split()
    assert sorted(headings) == sorted(word for each in said for word in str(each).split())
    assert len(said) + len(fitted.left_out) == len(report.columns)
    first = next(column for column in report.columns if not column.spare)
    assert first.name.replace("_", " ").removesuffix(" s") in " ".join(str(each) for each in said).replace("\n", " ")
    for column in fitted.table.columns:
        for each in column.cells:
            shown = str(each)
            assert shown in "\n".join(printed) or shown == WORDS, f"{column.header} of {name} is folded"


def test_nothing_is_left_out_where_there_is_room() -> None:
    """Headings stand in one line then, and no remark is made."""
    for name in CATALOGUE:
        fitted = to_table(answer(name), 400)
        assert fitted.left_out == ()
        assert left_out(fitted) == ""
        assert not any("\n" in str(column.header) for column in fitted.table.columns)


def test_what_can_be_spared_goes_first_and_is_named() -> None:
    """The last of what can be spared, then the last of the rest; a narrow one comes back where a wide one went."""
    shape = columns("name", "~one:n", "two:n", "long", "~three:n", "open?")
    rows = [("a" * 10, 1, 2, "b" * 30, 3, True)]
    report = Report(name="r", columns=shape, rows=rows, window=None)

    # 10, 3, 3, 30, 5 and 4 characters, three between two columns, one on either side.
    assert to_table(report, 72).left_out == ()
    fitted = to_table(report, 71)
    assert fitted.left_out == ("three",)
    assert left_out(fitted) == "; no room for three: --format csv has all"
    assert to_table(report, 63).left_out == ("one", "three")
    assert to_table(report, 39).left_out == ("long",)


def test_a_name_wider_than_the_terminal_is_folded() -> None:
    """Nothing of it is lost."""
    report = Report(name="r", columns=columns("agent", "n:n"), rows=[("x" * 70, 5)], window=None)
    printed = "".join(lines(to_table(report, 30), 30))

    assert printed.count("x") == 70
