"""
What the command line writes where: lines that fit the terminal, and streams that cannot be written.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import sys
import termios

import pytest
from rich.console import Console

from fleetpulse import console


def test_facts_go_on_below_their_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal that is too narrow no word is cut, and names stand alone at the left."""
    out = io.StringIO()
    terminal = Console(file=out, width=40, force_terminal=True, color_system=None, highlight=False)
    monkeypatch.setattr(console, "stdout", lambda: terminal)
    console.show_facts({"last hour": "3,450 slots: 2,364 up, 1,085 down; availability 68.54 %", "lost": "nothing"})

    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "last hour  3,450 slots: 2,364 up, 1,085",
        "           down; availability 68.54 %",
        "lost       nothing",
    ]


def test_facts_off_a_terminal_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    """However long they are."""
    console.show_facts({"a": "x " * 200 + "end", "name": "[bold]as it is"})

    assert capsys.readouterr().out == f"a     {'x ' * 200}end\nname  [bold]as it is\n"


@pytest.mark.parametrize(("columns", "lines"), [(30, 2), (80, 1), (0, 1)])
def test_remarks_break_between_words_on_a_terminal(columns: int, lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of no width does not know it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        console.note("workflow_summary: 2 rows; no room for work")
        terminal.flush()
        said = os.read(ours, 4096).decode().splitlines()
    os.close(ours)

    assert (len(said), " ".join(said)) == (lines, "workflow_summary: 2 rows; no room for work")
