"""
The live table: what a daemon does, on the terminal that it was started from.

Drawn on the terminal's alternate screen, so that nothing flickers and the shell's screen comes back untouched. It
shows snapshots of the daemon alone and asks no database: it goes on while that is away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC
from threading import Lock
from time import monotonic

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from collector.snapshot import Snapshot, Trouble
from reports.render import duration, plain, several, status_text
from storage.model import DOWN, UNKNOWN, Outcome, Transition

#: Pictures per second: snapshots come twice a second.
FRAMES_PER_S = 4
#: Lines that are always there: head, four lines of figures, two headings and the rules below them.
_FIXED_LINES = 11
#: Order in which statuses are counted out: the good one first, then what needs somebody.
_DOWN = tuple(sorted(outcome.label for outcome in DOWN))
_ORDER = ("healthy", "degraded", *_DOWN, "unknown", "paused")
#: From when on a lateness is worth a colour, milliseconds.
_LATE_MS = 100.0
#: A refresh runs every 15 s by default; after four of them something holds it up.
_STALE_REFRESH_S = 60.0
#: How long a warning is shown.
_MESSAGE_S = 60.0


class Screen:
    """
    The latest snapshot as a picture of whatever size the terminal has.

    Args:
        title: What stands first in the head.
        bounds: What stands last in it.
    """

    def __init__(self, title: str, bounds: str = "") -> None:
        self._title = title
        self._bounds = bounds
        # Guards what follows: the daemon's loop writes, the drawing thread reads.
        self._lock = Lock()
        self._snapshot: Snapshot | None = None
        self._message = ""
        self._message_until_s = 0.0

    def publish(self, snapshot: Snapshot) -> None:
        """Show *snapshot* from now on."""
        with self._lock:
            self._snapshot = snapshot

    def tell(self, message: str) -> None:
        """Show *message*, one line, at the bottom for a minute."""
        with self._lock:
            self._message = plain(message)
            self._message_until_s = monotonic() + _MESSAGE_S

    @property
    def latest(self) -> Snapshot | None:
        """Return the latest snapshot; ``None`` before the first."""
        with self._lock:
            return self._snapshot

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the picture, exactly as high as the terminal is."""
        with self._lock:
            snapshot = self._snapshot
            message = self._message if monotonic() < self._message_until_s else ""
        height = options.height or options.max_height or console.height
        width = options.max_width
        lines = [_cropped(line, width) for line in self._lines(snapshot, message, width, height)]
        picture = Text("\n", no_wrap=True, overflow="crop", end="").join(lines[:height])
        yield picture

    def _lines(self, snapshot: Snapshot | None, message: str, width: int, height: int) -> list[Text]:
        if snapshot is None:
            return [Text.assemble((self._title, "bold"), " starts")]
        lines = [
            self._head(snapshot),
            _agents(snapshot, width),
            _polls(snapshot),
            _spool(snapshot),
            _database(snapshot),
            Text(),
        ]
        left = max(2, height - _FIXED_LINES - bool(message))
        troubles = len(snapshot.troubled)
        # What is wrong now goes before what happened, but never takes all of the room.
        for_troubles = min(troubles, max(left // 2, left - len(snapshot.transitions)))
        lines += _troubled(snapshot, for_troubles, width)
        lines.append(Text())
        lines += _transitions(snapshot.transitions, left - max(1, for_troubles), width)
        if message:
            lines = [*lines[: height - 1], Text(message, style="yellow")]
        return lines

    def _head(self, snapshot: Snapshot) -> Text:
        elapsed = (snapshot.now_us - snapshot.started_us) / 1e6
        head = Text.assemble((self._title, "bold"), f"  running {duration(elapsed)}")
        if self._bounds:
            head.append(f" of {self._bounds}")
        if snapshot.listen_port:
            head.append(f"  /health on port {snapshot.listen_port}", style="dim")
        head.append("  Ctrl-C ends", style="dim")
        return head


@contextmanager
def drawn(screen: Screen, console: Console) -> Iterator[None]:
    """Draw *screen* until the block ends; the terminal is then as it was before."""
    with Live(
        get_renderable=lambda: screen,
        console=console,
        screen=True,
        refresh_per_second=FRAMES_PER_S,
        redirect_stdout=False,
        redirect_stderr=False,
        vertical_overflow="crop",
    ) as live:
        live.refresh()
        yield


def _agents(snapshot: Snapshot, width: int) -> Text:
    every_one = _counted(snapshot, _ORDER, snapshot.statuses)
    if every_one.cell_len <= width:
        return every_one
    down = sum(snapshot.statuses.get(status, 0) for status in _DOWN)
    return _counted(snapshot, ("healthy", "degraded", "down", "unknown", "paused"), {**snapshot.statuses, "down": down})


def _counted(snapshot: Snapshot, order: Sequence[str], counts: Mapping[str, int]) -> Text:
    line = Text.assemble(("agents    ", "bold"), f"{snapshot.agents:,}")
    symbol = ""
    for status in order:
        if not counts.get(status):
            continue
        text = Text("✖ down", style="red") if status == "down" else status_text(status)
        # Ways of being down share a symbol: said once, more of them fit.
        line.append("  ").append_text(text[2:] if text.plain[0] == symbol else text).append(f" {counts[status]:,}")
        symbol = text.plain[0]
    return line


def _polls(snapshot: Snapshot) -> Text:
    late = snapshot.lateness
    style = "yellow" if late.p99_ms > _LATE_MS else ""
    line = Text.assemble(
        ("polls     ", "bold"),
        f"{snapshot.slots_per_s:.1f}/s  {snapshot.samples_per_s:,.0f} samples/s  {snapshot.running} running  ",
        (f"late p50 {late.p50_ms:.1f} ms, p99 {late.p99_ms:.1f} ms", style),
    )
    skipped = snapshot.slots.get(Outcome.SKIPPED.label, 0)
    if skipped or snapshot.lost_slots:
        line.append(f"  {skipped:,} skipped, {snapshot.lost_slots:,} lost", style="yellow")
    return line


def _spool(snapshot: Snapshot) -> Text:
    spool = snapshot.spool
    line = Text.assemble(
        ("spool     ", "bold"),
        f"{several(spool.rows, 'row')} in {several(spool.batches, 'batch', 'batches')} {_waits(spool.rows)}  "
        f"{spool.size_bytes / 1024**2:.1f} of {snapshot.spool_max_bytes / 1024**2:,.0f} MiB",
    )
    if spool.oldest_us and spool.batches:
        line.append(f"  oldest {duration(max(0.0, (snapshot.now_us - spool.oldest_us) / 1e6))}")
    if spool.dropped_rows:
        line.append(f"  {several(spool.dropped_rows, 'row')} dropped", style="red")
    return line


def _database(snapshot: Snapshot) -> Text:
    writer = snapshot.writer
    symbol, style = {"up": ("●", "green"), "down": ("✖", "red")}.get(writer.state, ("?", "yellow"))
    written = f"  {several(writer.rows, 'row')} written"
    line = Text.assemble(("database  ", "bold"), (f"{symbol} {writer.state}", style), written)
    if writer.batches:
        line.append(f", last batch {writer.last_ms:.0f} ms")
    if writer.rejected:
        line.append(f", {writer.rejected:,} refused", style="yellow")
    if snapshot.refreshed_us:
        age_s = max(0.0, (snapshot.now_us - snapshot.refreshed_us) / 1e6)
        line.append(f"  rollups {duration(age_s)} old", style="yellow" if age_s > _STALE_REFRESH_S else "")
    else:
        line.append("  rollups not refreshed yet")
    if writer.error:
        line.append(f"  {plain(writer.error)}", style="red")
    return line


def _troubled(snapshot: Snapshot, room: int, width: int) -> list[Text]:
    if not snapshot.troubled:
        return [Text("every agent is healthy or paused", style="dim")]
    rows = sorted(snapshot.troubled, key=_urgency)[:room]
    hidden = sum(snapshot.statuses.values()) - snapshot.statuses.get("healthy", 0) - snapshot.statuses.get("paused", 0)
    headings = ("not healthy", "status", "for", "latency", f"reason{_more(hidden - len(rows))}")
    cells: list[tuple[Text, ...]] = []
    for each in rows:
        since = _since(snapshot, each)
        latency = "–" if math.isnan(each.latency_ms) else f"{each.latency_ms:.1f} ms"
        cells.append((_said(each.agent), status_text(each.status), Text(since), Text(latency), _said(each.reason)))
    return _drawn(headings, cells, width)


def _since(snapshot: Snapshot, trouble: Trouble) -> str:
    """Return how long an agent has been as it is; what it was before the run has lasted longer than that."""
    if trouble.since_us:
        return duration((snapshot.now_us - trouble.since_us) / 1e6)
    return "–" if trouble.status == UNKNOWN else f"> {duration((snapshot.now_us - snapshot.started_us) / 1e6)}"


def _transitions(transitions: tuple[Transition, ...], room: int, width: int) -> list[Text]:
    if not transitions or room < 1:
        return []
    cells = [
        (
            Text(f"{each.due.astimezone(UTC):%H:%M:%S}"),
            _said(each.agent),
            status_text(each.old),
            status_text(each.new),
            _said(each.reason),
        )
        for each in list(reversed(transitions))[:room]
    ]
    return _drawn(("last changes", "agent", "from", "to", "reason"), cells, width)


def _drawn(headings: Sequence[str], rows: Sequence[tuple[Text, ...]], width: int) -> list[Text]:
    """
    Return the lines of a table: the picture is put together line by line, so that it is never too high.

    Where it is too wide, the last column gives way.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)
    taken = 0
    for place, heading in enumerate(headings[:-1]):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
        # Two cells stand between columns.
        taken += max([len(heading), *(row[place].cell_len for row in rows)]) + 2
    table.add_column(headings[-1], no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        row[-1].truncate(max(len(headings[-1]), width - taken), overflow="ellipsis")
        table.add_row(*row)
    console = Console(width=width, height=1000, color_system="truecolor", force_terminal=True, legacy_windows=False)
    lines: list[Text] = []
    for segments in console.render_lines(table, console.options.update(width=width), pad=False):
        line = Text()
        for segment in segments:
            line.append(segment.text, style=segment.style)
        line.rstrip()
        lines.append(line)
    return lines


def _urgency(trouble: Trouble) -> tuple[bool, bool, int, str]:
    # What is down first, and of that what went down last.
    status = trouble.status
    return status in ("degraded", "unknown"), status == "unknown", -trouble.since_us, trouble.agent


def _said(text: str) -> Text:
    """Return the words of an agent as they are: neither the terminal nor the table obeys them."""
    return Text(plain(text))


def _waits(n: int) -> str:
    return "waits" if n == 1 else "wait"


def _more(n: int) -> str:
    return f"  (and {n:,} more)" if n > 0 else ""


def _cropped(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line


def summary(snapshot: Snapshot, *, flags: str = "", where: str = "", psql: bool = True) -> str:
    """
    Return what a run has done, for whoever started it, and where to look next.

    Args:
        flags: Flags that lead the commands to the same database, each with a space in front.
        where: What else leads there, in words.
        psql: The database is one that psql reads.
    """
    elapsed = duration((snapshot.now_us - snapshot.started_us) / 1e6)
    slots = sum(snapshot.slots.values())
    counted = ", ".join(
        f"{snapshot.slots[outcome.label]:,} {outcome.label}" for outcome in Outcome if snapshot.slots.get(outcome.label)
    )
    spool = snapshot.spool
    lost = snapshot.lost_slots
    waiting = (
        f"{several(spool.rows, 'row')} {_waits(spool.rows)} in the spool"
        if spool.rows
        else "nothing waits in the spool"
    )
    dropped = f", {several(spool.dropped_rows, 'row')} dropped from it" if spool.dropped_rows else ""
    refused = f", {snapshot.writer.rejected:,} refused" if snapshot.writer.rejected else ""
    return "\n".join(
        (
            f"polled {several(snapshot.agents, 'agent')} for {elapsed}, {several(slots, 'slot')}"
            + (f": {counted}" if counted else ""),
            f"wrote {several(snapshot.writer.rows, 'row')} in {several(snapshot.writer.batches, 'batch', 'batches')}{refused}; "
            f"{waiting}{dropped}; {several(lost, 'slot')} lost",
            f"look next{where}:",
            f"  fleetpulse status{flags}",
            f"  fleetpulse report availability --since 1h{flags}",
            f"  fleetpulse report incidents --since 1h{flags}",
            *([f"  fleetpulse db psql{flags} -c 'TABLE fleet_health'"] if psql else []),
        )
    )


def looks_live(console: Console) -> bool:
    """Tell whether *console* can show the live table."""
    return console.is_terminal and not console.is_dumb_terminal
