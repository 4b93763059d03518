"""
What the command line writes where: lines that fit the terminal, and streams that cannot be written.
"""

from __future__ import annotations

import io

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
