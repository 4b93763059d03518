"""
What people and programs get of a report: moments in the reader's zone, days, numbers.
"""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime, tzinfo
from zoneinfo import ZoneInfo

import pytest
from rich.console import Console

from fleetpulse import cli
from reports.definition import columns
from reports.render import to_csv, to_json
from reports.run import Report
from reports.table import to_table
from storage.model import Window

AT = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)
LATER = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


def report(tz: tzinfo) -> Report:
    """Return a report of one row, on the night in which Berlin sets its clocks ahead."""
    return Report(
        name="r",
        columns=columns("at:utc", "day:date", "slope:1", "n:n", "used:ratio"),
        rows=[(LATER, date(2026, 3, 29), -0.001, 12345, 12.5)],
        window=Window(AT, LATER),
        tz=tz,
    )


@pytest.mark.parametrize(
    ("tz", "name", "start", "end"),
    [
        (UTC, "UTC", "2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"),
        (ZoneInfo("UTC"), "UTC", "2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"),
        (ZoneInfo("Europe/Berlin"), "Europe/Berlin", "2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00"),
        (ZoneInfo("Europe/London"), "Europe/London", "2026-03-29T00:30:00+00:00", "2026-03-29T02:30:00+01:00"),
    ],
)
def test_programs_read_moments_with_the_offset_of_the_zone(tz: tzinfo, name: str, start: str, end: str) -> None:
    """ISO 8601 in CSV and JSON, Z for UTC alone; the document names the zone."""
    document = json.loads(to_json(report(tz)))
    _, row = csv.reader(io.StringIO(to_csv(report(tz)), newline=""))

    assert document["time_zone"] == name
    assert document["window"] == {"start": start, "end": end}
    assert document["rows"] == [{"at": end, "day": "2026-03-29", "slope": -0.001, "n": 12345, "used": 12.5}]
    assert row == [end, "2026-03-29", "-0.001", "12345", "12.5"]


def test_people_read_moments_in_the_zone() -> None:
    """Without the offset, which would be in the way; no number is less than nothing by a rounding."""
    console = Console(width=200)
    with console.capture() as captured:
        console.print(to_table(report(ZoneInfo("Europe/Berlin")), 200).table)
    line = captured.get().splitlines()[3]

    assert line.split() == ["2026-03-29", "03:30:00", "2026-03-29", "0.00", "12,345", "1,250.00", "%"]


def test_report_is_asked_for_and_answered_in_a_zone(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line: midnight of Kathmandu is 18:15 in UTC, the days are those of Kathmandu, and so is the answer."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FLEETPULSE_DATABASE_URL", f"sqlite:///{home / 'fleet.db'}")
    monkeypatch.setenv("FLEETPULSE_HOME", str(home))
    monkeypatch.setenv("FLEETPULSE_REPORT_TZ", "Asia/Kathmandu")
    monkeypatch.chdir(home)
    assert cli.call(["db", "upgrade"]) == 0
    capsys.readouterr()
    asked = ["--since", "2026-03-28T12:00", "--until", "2026-03-29"]
    assert cli.call(["report", "capacity_trend", *asked, "--format", "json"]) == 0
    days = json.loads(capsys.readouterr().out)
    assert cli.call(["report", "latency", *asked]) == 0
    said = capsys.readouterr().err

    assert days["window"] == {"start": "2026-03-28T00:00:00+05:45", "end": "2026-03-29T00:00:00+05:45"}
    assert said == (
        "latency: 0 rows, 2026-03-28T12:00:00+05:45 to 2026-03-29T00:00:00+05:45, times in Asia/Kathmandu\n"
    )
