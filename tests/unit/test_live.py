"""
The live table: what it shows of a snapshot, in terminals of any size.
"""

from __future__ import annotations

import io
import math
from dataclasses import replace
from datetime import timedelta

import pytest
from rich.console import Console

from collector.snapshot import Snapshot, Trouble
from collector.spool_content import SpoolStats
from collector.tally import Lateness
from collector.writer import WriterStats
from fleetpulse.live import Screen, drawn, looks_live, summary
from storage.model import Transition, to_us
from tests.batches import NOON

NOW_US = to_us(NOON)
SNAPSHOT = Snapshot(
    now_us=NOW_US,
    started_us=NOW_US - 125_000_000,
    statuses={"healthy": 12, "degraded": 1, "timeout": 2, "refused": 1, "paused": 3},
    slots={"healthy": 1200, "timeout": 30, "skipped": 4},
    slots_per_s=10.25,
    samples_per_s=1234.5,
    running=3,
    lateness=Lateness(p50_ms=0.7, p99_ms=150.0, max_ms=200.0),
    waiting_rows=0,
    spool=SpoolStats(batches=2, rows=4321, size_bytes=3 * 1024**2, oldest_us=NOW_US - 90_000_000),
    spool_max_bytes=1024**3,
    writer=WriterStats(state="up", rows=98765, batches=87, last_ms=12.0),
    lost_slots=5,
    transitions=tuple(
        Transition(agent=f"agent-{k:03}", due=NOON + timedelta(seconds=k), old="healthy", new="timeout", reason="slow")
        for k in range(50)
    ),
    troubled=(
        Trouble(agent="warm", status="degraded", since_us=NOW_US - 1_000_000, reason="load", latency_ms=7.25),
        Trouble(
            agent="old", status="timeout", since_us=NOW_US - 3_700_000_000, reason="no answer", latency_ms=math.nan
        ),
        Trouble(agent="new", status="refused", since_us=NOW_US - 5_000_000, reason="refused", latency_ms=math.nan),
        Trouble(agent="before", status="timeout", since_us=0, reason="", latency_ms=math.nan),
    ),
    refreshed_us=NOW_US - 8_000_000,
    listen_port=9817,
)


def picture(screen: Screen, width: int = 80, height: int = 24) -> list[str]:
    """Return the lines that *screen* draws on a terminal of this size."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False, color_system=None)
    lines = console.render_lines(screen, console.options.update(width=width, height=height), pad=False)
    return ["".join(segment.text for segment in line).rstrip() for line in lines]


def shown(snapshot: Snapshot, width: int = 80, height: int = 24) -> list[str]:
    """Return the lines that *snapshot* gives."""
    screen = Screen("fleetpulse main", "5m")
    screen.publish(snapshot)
    return picture(screen, width, height)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (40, 10), (20, 5)])
def test_picture_fits_any_terminal(width: int, height: int) -> None:
    """No line is wider, and no picture higher, than the terminal; on a large one more is told."""
    lines = shown(SNAPSHOT, width, height)

    assert len(lines) <= height
    assert max(len(line) for line in lines) <= width
    assert lines[0].startswith("fleetpulse main")


def test_picture_shows_every_figure_of_the_daemon() -> None:
    """Agents by status, rate, lateness, spool, database, rollups: each has its place on 80 × 24."""
    lines = shown(SNAPSHOT)

    assert lines[:5] == [
        "fleetpulse main  running 2m 05s of 5m  /health on port 9817  Ctrl-C ends",
        "agents    19  ● healthy 12  ◐ degraded 1  ✖ refused 1  timeout 2  ‖ paused 3",
        "polls     10.2/s  1,234 samples/s  3 running  late p50 0.7 ms, p99 150.0 ms  4 …",
        "spool     4,321 rows in 2 batches wait  3.0 of 1,024 MiB  oldest 1m 30s",
        "database  ● up  98,765 rows written, last batch 12 ms  rollups 8.0s old",
    ]
    assert "4 skipped, 5 lost" in shown(SNAPSHOT, 100)[2]


def test_picture_lists_troubled_agents_by_urgency_and_the_latest_changes_first() -> None:
    """What is down stands before what is degraded, the latest first; half of the room is left for changes."""
    lines = shown(SNAPSHOT)
    troubled = [line.split()[0] for line in lines[8:12]]
    changes = [line.split()[1] for line in lines[15:]]

    assert troubled == ["new", "old", "before", "warm"]
    assert lines[9].split() == ["old", "✖", "timeout", "1h", "01m", "–", "no", "answer"]
    assert lines[11].split() == ["warm", "◐", "degraded", "1.0s", "7.2", "ms", "load"]
    assert changes[:2] == ["agent-049", "agent-048"]
    assert len(lines) == 24


def test_picture_of_one_row_and_of_what_began_before_the_run() -> None:
    """One row is one row; an agent that was down when the run began has been so for longer than that."""
    spool = SpoolStats(batches=1, rows=1, size_bytes=1024**2, oldest_us=0)
    lines = shown(replace(SNAPSHOT, spool=spool, writer=WriterStats(state="up", rows=1, batches=1)))

    assert lines[3].startswith("spool     1 row in 1 batch waits  1.0 of")
    assert "  1 row written" in lines[4]
    assert lines[10].split() == ["before", "✖", "timeout", ">", "2m", "05s", "–"]


def test_picture_says_how_many_troubled_agents_it_leaves_out() -> None:
    """A fleet that is down as a whole does not hide that more agents are down than fit."""
    many = tuple(
        Trouble(agent=f"a{k:03}", status="error", since_us=NOW_US - k, reason="x", latency_ms=math.nan)
        for k in range(200)
    )
    lines = shown(replace(SNAPSHOT, statuses={"error": 5000}, troubled=many))
    listed = [line for line in lines if line.startswith("a") and "✖ error" in line and not line.startswith("agents")]

    assert any(f"(and {5000 - len(listed):,} more)" in line for line in lines)
    assert len(listed) >= 5


def test_picture_sums_up_statuses_that_do_not_fit() -> None:
    """On a narrow terminal the ways of being down become one number instead of being cut off."""
    statuses = {"healthy": 1111, "degraded": 222, "error": 33, "refused": 4, "stalled": 5, "timeout": 6, "unhealthy": 7}
    line = shown(replace(SNAPSHOT, statuses=statuses))[1]

    assert line == "agents    1,388  ● healthy 1,111  ◐ degraded 222  ✖ down 55"


def test_picture_of_a_database_that_is_away_says_why() -> None:
    """The state is a symbol and a word; the error stands beside it."""
    writer = WriterStats(state="down", error="connection refused", rows=5, batches=1)
    line = shown(replace(SNAPSHOT, writer=writer, refreshed_us=0), 160)[4]

    assert "✖ down  5 rows written" in line
    assert "rollups not refreshed yet" in line
    assert line.endswith("connection refused")


def test_picture_of_a_quiet_fleet_and_before_the_first_snapshot() -> None:
    """Nothing to tell is told, too."""
    quiet = shown(replace(SNAPSHOT, troubled=(), transitions=()))

    assert "every agent is healthy or paused" in quiet
    assert picture(Screen("fleetpulse main"))[0] == "fleetpulse main starts"


def test_picture_shows_a_warning_at_the_bottom_and_obeys_nothing_that_agents_say() -> None:
    """What comes from outside is text: no control character reaches the terminal."""
    screen = Screen("fleetpulse main")
    trouble = Trouble(agent="a\x1b[2J", status="error", since_us=0, reason="\x07[red]x", latency_ms=math.nan)
    screen.publish(replace(SNAPSHOT, troubled=(trouble,)))
    screen.tell("12:00:00 warning: \x1b[31mdisk is full")
    lines = picture(screen)

    assert lines[-1] == "12:00:00 warning: �[31mdisk is full"
    assert lines[8].startswith("a�[2J")
    assert "�[red]x" in lines[8]
    assert "\x1b" not in "".join(lines)


def test_drawing_uses_the_alternate_screen_and_gives_it_back() -> None:
    """The shell's screen and cursor are as they were, also after an error."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=24)
    screen = Screen("fleetpulse main")
    screen.publish(SNAPSHOT)
    with pytest.raises(RuntimeError), drawn(screen, console):
        raise RuntimeError
    text = out.getvalue()

    assert text.index("\x1b[?1049h") < text.index("fleetpulse main") < text.rindex("\x1b[?1049l")
    assert text.index("\x1b[?25l") < text.rindex("\x1b[?25h")


def test_table_is_for_terminals_that_can_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, pipes and terminals without cursor movement get log lines."""
    monkeypatch.setenv("TERM", "xterm")
    assert looks_live(Console(file=io.StringIO(), force_terminal=True))
    assert not looks_live(Console(file=io.StringIO(), force_terminal=False))
    monkeypatch.setenv("TERM", "dumb")
    assert not looks_live(Console(file=io.StringIO(), force_terminal=True))


def test_summary_counts_what_was_done_and_names_the_next_steps() -> None:
    """At the end stands what was polled, written, lost, and the commands that show it."""
    lines = summary(SNAPSHOT, flags=" --home /x").splitlines()

    assert lines[:2] == [
        "polled 19 agents for 2m 05s, 1,234 slots: 1,200 healthy, 30 timeout, 4 skipped",
        "wrote 98,765 rows in 87 batches; 4,321 rows wait in the spool; 5 slots lost",
    ]
    assert lines[3] == "  fleetpulse status --home /x"


def test_long_reasons_give_way_to_states() -> None:
    """On 80 columns a reason that is longer than the screen cuts nothing but itself."""
    reason = "no answer from the collector's own registry within the time that it was given, and then some more of that"
    told = tuple(
        Transition(agent=f"demo-{k:04}", due=NOON, old="unknown", new="unhealthy", reason=reason) for k in range(3)
    )
    trouble = Trouble(
        agent="demo-0001", status="unhealthy", since_us=NOW_US - 1_000_000, reason=reason, latency_ms=7.25
    )
    lines = shown(replace(SNAPSHOT, transitions=told, troubled=(trouble,)))
    [change] = [line for line in lines if "demo-0002" in line]

    assert "last changes" in "\n".join(lines)
    assert "unknown" in change
    assert "unhealthy" in change
    assert change.endswith("…")
    assert any("demo-0001" in line and "unhealthy" in line and "7.2 ms" in line for line in lines)
    assert max(len(line) for line in lines) <= 80
