"""
``fleetpulse run`` as it is started: the embedded database, a simulated fleet, a terminal, signals.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetpulse import cli

ROOT = Path(__file__).resolve().parents[2]
#: Seconds for anything that a busy machine may take its time for.
PATIENCE_S = 60


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a home folder: short, because a socket lies in it, and open to the server's user when root runs this."""
    folder = Path(tempfile.mkdtemp(prefix="fleetpulse-run-")).resolve()
    folder.chmod(0o711)
    yield folder / "home"
    shutil.rmtree(folder)


def start(home: Path, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start the command line on *home*, away from the settings of whoever runs the tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEETPULSE_")}
    environment |= {
        "FLEETPULSE_HOME": str(home),
        "FLEETPULSE_COLLECTOR_LISTEN_PORT": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "TERM": "xterm-256color",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "fleetpulse", *arguments], cwd=home.parent, env=environment, **options
    )


def call(home: Path, *arguments: str) -> tuple[int, str, str]:
    """Run a command to its end; return exit code, standard output, standard error."""
    with start(home, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.every_engine
def test_run_with_a_demo_fleet_stores_every_poll(
    home: Path, database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Per agent the checks are those that the fleet served; status, report and proof agree."""
    code, out, err = call(
        home, "run", "--for", "5s", "--demo-fleet", "4", "--faults", "2:fail;3:refused", "--database-url", database_url
    )
    log = [json.loads(line) for line in (home / "demo-fleet.jsonl").read_text().splitlines()]
    served = Counter(entry["agent"] for entry in log if entry["type"] == "request")

    def ask(*arguments: str) -> Any:
        assert cli.call([*arguments, "--format", "json", "--database-url", database_url]) == 0
        return json.loads(capsys.readouterr().out)

    monkeypatch.chdir(home)
    rows = ask("report", "availability", "--since", "1h", "--type", "simulated")["rows"]
    counted = {row["agent"]: (row["up"], row["down"]) for row in rows}
    status = ask("status")

    assert code == 0, err
    assert out == ""
    assert re.search(
        r"look next(:\n  fleetpulse status --database-url \S+|, at .*:\n  fleetpulse status) --home ", err
    ), err
    assert err.count(f"{home}/demo-fleet.jsonl") == 2
    assert set(counted) == {"demo-0001", "demo-0002", "demo-0003", "demo-0004"}
    for agent in ("demo-0001", "demo-0002", "demo-0004"):
        # The last poll may have been cut off after the fleet had answered it.
        assert abs(sum(counted[agent]) - served[agent]) <= 1
    assert counted["demo-0001"][0] >= 2
    assert counted["demo-0001"][1] == counted["demo-0002"][0] == counted["demo-0003"][0] == 0
    assert counted["demo-0003"][1] >= 2
    assert status["agents"]["by_status"]["unhealthy"] == 1
    assert status["agents"]["by_status"]["refused"] == 1
    assert status["collector"]["live"] is False
    assert ask("verify")["holds"] is True


def test_run_makes_the_embedded_database_and_ends_in_order_on_sigterm(home: Path) -> None:
    """From nothing: a server, a schema, a poll of its own; a signal is exit 0 with nothing left in the spool."""
    said: list[bytes] = []
    with start(home, "run", "--log-format", "json", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if b"database is there" in line:
                break
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=PATIENCE_S)
    events = {
        entry.get("event"): entry for entry in (json.loads(each) for each in rest.splitlines() if each.startswith(b"{"))
    }

    assert process.returncode == 0, b"".join(said) + rest
    assert events["stopped"]["batches"] == 0
    code, out, err = call(home, "status", "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out)["collector"]["ended_at"] is not None
    assert json.loads(out)["database"]["home"] == str(home)


def test_run_refuses_a_named_database_without_the_schema(home: Path, empty_database_url: str) -> None:
    """A database of your own is never changed behind your back: one line with the remedy, exit 1."""
    code, _, err = call(home, "run", "--for", "30s", "--log-level", "error", "--database-url", empty_database_url)

    assert code == 1
    assert err.splitlines()[-1].startswith("error: ")
    assert ': run "fleetpulse db upgrade"' in err.splitlines()[-1]


def test_run_on_a_terminal_draws_the_table_and_restores_the_screen(home: Path, database_url: str) -> None:
    """The table is on the alternate screen, log lines are in a file, the summary is on the screen of the shell."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = start(
        home,
        *("run", "--for", "3s", "--demo-fleet", "2", "--faults", "2:fail", "--database-url", database_url),
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    seen = bytearray()
    deadline = time.monotonic() + PATIENCE_S
    with process:
        while time.monotonic() < deadline:
            try:
                part = os.read(leader, 65_536)
            except OSError:
                # Linux says so when the last one who had the terminal open is gone.
                break
            if not part:
                break
            seen += part
    os.close(leader)
    text = seen.decode()
    table = text[text.index("\x1b[?1049h") : text.rindex("\x1b[?1049l")]
    after = text[text.rindex("\x1b[?1049l") :]

    assert process.returncode == 0
    assert "demo-0002" in table
    assert "status fail" in table
    assert " INFO " not in table
    assert "polled 3 agents for " in after
    assert "look next:" in after
    assert "collector main polls 3 agents" in (home / "fleetpulse.log").read_text()


def test_embedded_server_is_started_named_and_stopped_by_hand(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A started server stays until it is stopped, and has an address meanwhile; an upgrade alone leaves none behind."""
    monkeypatch.chdir(home.parent)

    def ask(*arguments: str) -> tuple[int, str, str]:
        code = cli.call([*arguments, "--home", str(home)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    made = ask("db", "upgrade")
    without = ask("db", "url")
    started = ask("db", "start")
    named = ask("db", "url")
    used = ask("db", "current")
    stopped = ask("db", "stop")
    again = ask("db", "stop")

    assert made[0] == 0
    assert without[0] == 1
    assert without[2].endswith('is not running: run "fleetpulse db start"\n')
    assert started[:2] == named[:2]
    assert started[1].startswith("postgresql://")
    assert used[0] == 0
    assert (stopped[0], stopped[2]) == (0, "stopped\n")
    assert again[2] == "embedded server does not run\n"
