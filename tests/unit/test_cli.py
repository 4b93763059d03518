"""
The command line where it needs no database: its shape, its errors, its streams.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import typer

from fleetpulse import cli
from fleetpulse.moments import parse_moment, parse_window, parse_zone
from reports.catalogue import CATALOGUE
from storage.errors import SettingsError
from storage.model import Window

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither settings nor a database of whoever runs the tests get in."""
    for name in os.environ:
        if name.startswith("FLEETPULSE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLEETPULSE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with the words that call it."""

    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        children = getattr(command, "commands", None)
        if children is None:
            yield name, command
            return
        for word, child in children.items():
            yield from walk(f"{name} {word}", child)

    return walk("fleetpulse", typer.main.get_command(cli.app))


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_has_help_and_an_entry_that_names_its_options(name: str) -> None:
    """docs/cli.md has a heading per command; below it, or in the table of common ones, stands each of its flags."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    command = COMMANDS[name]
    heading = f"### {name}\n"
    entry = text.partition(heading)[2].partition("\n### ")[0]
    common = text.partition("## Options of all commands")[2].partition("\n## ")[0]
    flags = [flag for option in command.params for flag in option.opts if flag.startswith("--") and flag != "--help"]

    assert (command.help or "").strip()
    assert heading in text
    assert [flag for flag in flags if f"`{flag}" not in entry + common] == []
    assert [option.name for option in command.params if not getattr(option, "help", None)] == []


def test_each_entry_is_a_command() -> None:
    """docs/cli.md describes nothing that there is not."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")

    assert sorted(re.findall(r"^### (fleetpulse .*)$", text, re.MULTILINE)) == sorted(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_flag_has_an_environment_variable_named_after_it(name: str) -> None:
    """A variable is FLEETPULSE_<FLAG> where several commands share it, else FLEETPULSE_<COMMAND>_<FLAG>."""
    for option in COMMANDS[name].params:
        if option.param_type_name != "option" or "--help" in option.opts:
            continue
        flag = next(each for each in option.opts if each.startswith("--")).removeprefix("--")
        words = (*name.split(), flag)
        automatic = "_".join((*name.split(), option.name)).upper().replace("-", "_")
        shared = f"FLEETPULSE_{flag}".upper().replace("-", "_")

        assert (option.envvar or automatic) in ("_".join(words).upper().replace("-", "_"), shared)


def test_report_is_documented_column_by_column() -> None:
    """docs/reports.md has a section per report, and a line for each of its columns."""
    text = (ROOT / "docs" / "reports.md").read_text(encoding="utf-8")
    for name, report in CATALOGUE.items():
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        described = {word for row in re.findall(r"^\| ([^|]*) \|", section, re.MULTILINE) for word in row.split(", ")}

        assert {column.name for column in report.columns} <= described
        assert section.count("`--") >= len(report.filters)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "availabilty"], 'report "availabilty" does not exist: did you mean "availability"'),
        (["report"], "report has no name: expected one of availability, blast_radius, capacity_trend, error_budget, "),
        (["report", "availabilty", "--list"], 'report "availabilty" does not exist: did you mean "availability"'),
        (["report", "incidents", "--since", "soon"], '--since is "soon", expected a duration back from now'),
        (
            ["report", "incidents", "--since", "1969-12-31"],
            '--since is "1969-12-31", expected a moment in the years 1970',
        ),
        (
            ["report", "incidents", "--until", "2200-01-01"],
            '--until is "2200-01-01", expected a moment in the years 1970',
        ),
        (["report", "fleet_health", "--since", "1h"], "report fleet_health is about now: expected neither --since nor"),
        (["report", "incidents", "--host", "h"], 'report incidents has no filter "host": expected agent, type'),
        (["report", "latency", "--target", "0.9"], 'report latency has no option "target": expected none'),
        (
            ["report", "capacity_trend", "--target", "0.9"],
            'report capacity_trend has no option "target": expected full_at',
        ),
        (["report", "error_budget", "--target", "1"], "--target is 1, expected 0 to 0.999999"),
        (["report", "error_budget", "--target", "0.9999999"], "--target is 0.9999999, expected 0 to 0.999999"),
        (["report", "error_budget", "--target", "nan"], "--target is nan, expected 0 to 0.999999"),
        (["report", "error_budget", "--target", "x"], '--target is "x", expected a number: see "fleetpulse report'),
        (["report", "hot_spots", "--limit", "abc"], '--limit is "abc", expected a whole number: see'),
        (["report", "hot_spots", "--limit", "0"], "--limit is 0, expected a whole number from 1 to 100000"),
        (["report", "error_budget", "--burn-for", "60"], '--burn-for is "60", expected a duration with its unit'),
        (["report", "error_budget", "--burn-for", "1s"], "--burn-for is 1s, expected 1m to 366d"),
        (["report", "blast_radius"], "report blast_radius needs a filter: expected agent"),
        (["report", "latency", "--tz", "Berlin"], '--tz is "Berlin", did you mean Europe/Berlin'),
        (["report", "latency", "--tz", "Europe"], '--tz is "Europe", did you mean Europe/'),
        (["report", "latency", "--tz", "localtime"], '--tz is "localtime", expected a name of the IANA'),
        (["report", "latency", "--tz", "posix/Europe/Berlin"], '--tz is "posix/Europe/Berlin", did you mean Europe/'),
        (["report", "latency", "--tz", "../etc/passwd"], '--tz is "../etc/passwd", expected a name of the IANA'),
        (["report", "incidents", "--since", "1h", "--until", "2h"], "window is empty: --since 1h is"),
        (["report", "incidents", "--since", ""], '--since is "", expected a duration back from now'),
        (["report", "fleet_health", "--until", ""], "report fleet_health is about now: expected neither --since nor"),
        (
            ["report", "incidents", "--until", "2020-01-01"],
            "window is empty: --until 2020-01-01 is 2020-01-01T00:00:00+00:00, without --since it begins 1d ago: add",
        ),
        (["report", "LATENCY"], 'report "LATENCY" does not exist: did you mean "latency"'),
        (["report", "--lis"], "no such option: --lis"),
        (
            ["status", "--format", "xml"],
            '--format is "xml", expected one of table, json: see "fleetpulse status --help"',
        ),
        (["agents", "add", "a", "--interval", "5"], '--interval is "5", expected a duration with its unit'),
        (["agents", "add", "a", "--label", "x"], '--label is "x", expected KEY=VALUE'),
        (["agents", "sync"], "there is no settings file to take agents from: name one with --config"),
        (["status", "--config", "nowhere.toml"], "settings file nowhere.toml cannot be read: No such file"),
        (["nonsense"], "no such command 'nonsense'"),
        (["run", "--for", "soon"], '--for is "soon", expected a duration with its unit'),
        (["run", "--for", "0s"], '--for is "0s", expected more than 0s'),
        (["run", "--demo-fleet", "3", "--faults", "9:hang"], 'fault "9:hang" names agent 9: expected 1 to 3'),
        (["run", "--log-level", "loud"], '--log-level is "loud", expected one of debug, info, warning, error: see'),
        (["run", "--demo-fleet", "-1"], '--demo-fleet is "-1", expected 0 or more: see'),
        (["fleet", "--faults", "3:explode"], 'fault "3:explode" is of an unknown kind'),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever mistypes learns what was found and what was expected, without a traceback."""
    code = cli.call(arguments)
    captured = capsys.readouterr()

    assert code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"error: {said}")


@pytest.mark.parametrize("arguments", [["status"], ["verify"], ["agents", "list"], ["report", "fleet_health"]])
def test_empty_home_says_what_to_do(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands that only look make no database; they name those that do."""
    code = cli.call(arguments)
    captured = capsys.readouterr()

    assert code == 1
    assert captured.err == (
        f'error: there is no database in {tmp_path / "home"} yet: start the daemon with "fleetpulse run", '
        'or make an empty one with "fleetpulse db upgrade"\n'
    )
    assert not (tmp_path / "home").exists()


def test_unreachable_database_is_exit_1_and_hides_the_password(capsys: pytest.CaptureFixture[str]) -> None:
    """A database that is away is one line, without the secret of its address."""
    code = cli.call(["status", "--database-url", "postgresql://me:geheim@127.0.0.1:1/x"])
    captured = capsys.readouterr()

    assert code == 1
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert "geheim" not in captured.err + captured.out


@pytest.mark.parametrize("command", ["run", "status"])
def test_database_in_memory_is_refused(command: str) -> None:
    """Nobody else would ever see what is in it."""
    answer = subprocess.run(
        [sys.executable, "-m", "fleetpulse", command, "--database-url", "sqlite://"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == (
        "error: database address is that of a database in memory, which ends with the command: expected one of a file, "
        "sqlite:///file\n"
    )


def test_debug_shows_where_an_error_came_from() -> None:
    """With --debug, before the command or in the environment, an error keeps its traceback."""
    with pytest.raises(SettingsError):
        cli.call(["--debug", "report"])


def test_setting_in_the_environment_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flag's variable stands for the flag."""
    monkeypatch.setenv("FLEETPULSE_REPORT_SINCE", "never")
    code = cli.call(["report", "incidents"])

    assert code == 2
    assert '--since is "never"' in capsys.readouterr().err
    monkeypatch.setenv("FLEETPULSE_FORMAT", "xml")
    assert cli.call(["status"]) == 2
    assert capsys.readouterr().err.startswith('error: --format (from the environment) is "xml", expected one of table')


def test_report_takes_a_flag_for_each_filter_and_option_of_the_catalogue() -> None:
    """Whatever some report takes can be typed, and its help says what it is; reports are named by --list alone."""
    flags = {flag: option for option in COMMANDS["fleetpulse report"].params for flag in option.opts}
    taken = {each for report in CATALOGUE.values() for each in report.filters}
    options = {option.word: option for report in CATALOGUE.values() for option in report.options}

    assert taken | set(options) <= {flag.removeprefix("--").replace("-", "_") for flag in flags}
    for word, option in options.items():
        assert option.description[1:] in flags[f"--{word.replace('_', '-')}"].help
    assert not any(name in (COMMANDS["fleetpulse report"].help or "") for name in CATALOGUE)


def test_report_option_has_an_environment_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that comes from the catalogue is no less of one."""
    monkeypatch.setenv("FLEETPULSE_REPORT_BURN_FOR", "soon")
    code = cli.call(["report", "error_budget"])

    assert code == 2
    assert '--burn-for is "soon"' in capsys.readouterr().err


def test_report_list_says_what_each_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """Filters, those that are needed, and options with their defaults; of one report where one is named."""
    assert cli.call(["report", "--list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert cli.call(["report", "error_budget", "--list", "--format", "json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)

    assert set(CATALOGUE) <= set(lines)
    assert lines["error_budget"].endswith(" --agent, --type, --target 0.999, --burn-for 1h")
    assert " --agent (required), --down-for 30m" in lines["blast_radius"]
    assert document["filters"] == ["agent", "type"]
    assert [(option["name"], option["default"]) for option in document["options"]] == [
        ("target", 0.999),
        ("burn_for_s", 3600),
    ]


def test_version_and_help_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """What was asked for is data."""
    assert cli.call(["--version"]) == 0
    assert re.fullmatch(r"fleetpulse \S+\n", capsys.readouterr().out)
    assert cli.call(["report", "--help"]) == 0
    assert "--tz ZONE" in capsys.readouterr().out


def _process(arguments: list[str], **options: Any) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "fleetpulse", *arguments], env={**os.environ, "PYTHONPATH": path}, **options
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_closed_pipe_ends_quietly(monkeypatch: pytest.MonkeyPatch, unbuffered: str) -> None:
    """A reader that has what it wants is no failure and no traceback."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reader, writer = os.pipe()
    os.close(reader)
    with _process(["report", "--list"], stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        _, said = process.communicate(timeout=60)

    assert process.returncode == 0
    assert said == b""


def test_closed_output_is_one_line() -> None:
    """Without standard output there is nowhere to answer to; without standard error nobody is told."""
    command = f'exec "{sys.executable}" -m fleetpulse report --list'
    for closed, said in ((">&-", "error: standard output is closed\n"), (">&- 2>&-", "")):
        answer = subprocess.run(
            ["sh", "-c", f"{command} {closed}"], stderr=subprocess.PIPE, text=True, timeout=60, check=False, cwd=ROOT
        )

        assert (answer.returncode, answer.stderr) == (1, said)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_full_output_is_named() -> None:
    """What cannot be written is said to be standard output, once, and once only at the end of the process."""
    with Path("/dev/full").open("w") as full, _process(["report", "--list"], stdout=full, stderr=-1) as process:
        _, said = process.communicate(timeout=60)

    assert (process.returncode, said) == (1, b"error: standard output: No space left on device\n")


def test_output_off_a_terminal_has_no_colours_and_no_cut_lines() -> None:
    """What another program reads is text, however wide it has to be."""
    with _process(["report", "--list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, _ = process.communicate(timeout=60)
    lines = out.decode().splitlines()

    assert b"\x1b" not in out
    assert all(line.strip() and line == line.rstrip() for line in lines)
    assert any(line.startswith(" availability") and line.endswith("--agent, --type") for line in lines)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", NOW),
        ("90m", NOW - timedelta(minutes=90)),
        ("1d12h", NOW - timedelta(hours=36)),
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T12:00", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01T12:00:00+02:00", datetime(2026, 3, 1, 10, tzinfo=UTC)),
        ("2026-03-01T12:00:00Z", datetime(2026, 3, 1, 12, tzinfo=UTC)),
    ],
)
def test_moments_are_back_from_now_or_iso(text: str, moment: datetime) -> None:
    """Durations count back from now; times without a zone are UTC where nobody says otherwise."""
    assert parse_moment(text, NOW, "--since") == moment


def test_moments_without_a_zone_are_of_the_zone_that_is_asked_for() -> None:
    """Midnight is that of the reader, on both sides of a change of clocks; what names its zone keeps it."""
    berlin = parse_zone("Europe/Berlin")

    assert parse_moment("2026-03-28", NOW, "--since", berlin) == datetime(2026, 3, 27, 23, tzinfo=UTC)
    assert parse_moment("2026-03-30", NOW, "--since", berlin) == datetime(2026, 3, 29, 22, tzinfo=UTC)
    assert parse_moment("2026-03-01T12:00Z", NOW, "--since", berlin) == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert parse_window("2026-03-10", "2026-03-11", NOW, berlin) == Window(
        datetime(2026, 3, 9, 23, tzinfo=UTC), datetime(2026, 3, 10, 23, tzinfo=UTC)
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("berlin", "did you mean Europe/Berlin"),
        ("new york", "did you mean America/New_York"),
        ("Asia/Katmandoo", "did you mean Asia/Kat"),
        ("", 'expected a name of the IANA, such as "Europe/Berlin" or "UTC"'),
    ],
)
def test_zones_that_are_none_are_refused_with_the_nearest(name: str, said: str) -> None:
    """People know their city; the message knows the zone."""
    with pytest.raises(SettingsError, match=re.escape(f'--tz is "{name}", {said}')):
        parse_zone(name)


def test_zone_of_utc_is_utc() -> None:
    """However it is written."""
    assert parse_zone("UTC") is UTC
    assert parse_zone("utc") is UTC
    assert parse_zone("Europe/Berlin") == ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize("text", ["", "yesterday", "7", "2026-13-01", "0001-01-01T00:00:00+14:00", "60y", "9999-12-31"])
def test_moments_that_are_none_are_refused(text: str) -> None:
    """What is neither is named with its flag."""
    with pytest.raises(SettingsError, match=re.escape(f'--until is "{text}", expected')):
        parse_moment(text, NOW, "--until")


def test_windows_are_from_since_to_until() -> None:
    """An empty window is a mistake, not an answer without rows."""
    assert parse_window("2h", "1h", NOW) == Window(NOW - timedelta(hours=2), NOW - timedelta(hours=1))
    with pytest.raises(SettingsError, match="window is empty"):
        parse_window("now", "now", NOW)
