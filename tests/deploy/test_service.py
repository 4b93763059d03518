"""
The systemd unit: starts a command that is one, under an ordinary user, with its secret from a file.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.deploy.compose import ROOT

UNIT = ROOT / "deploy" / "fleetpulse.service"


def unit() -> dict[str, list[str]]:
    """Return the values of each key of the section ``[Service]``."""
    found: dict[str, list[str]] = defaultdict(list)
    section = ""
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def test_exec_start_is_the_command() -> None:
    """What systemd starts is this program, with flags that it knows."""
    program, *arguments = shlex.split(unit()["ExecStart"][0])
    own = Path(sys.executable).parent / Path(program).name
    done = subprocess.run([own, *arguments, "--help"], capture_output=True, text=True, timeout=60, check=False)

    assert Path(program).name == "fleetpulse"
    assert arguments[0] == "run"
    assert done.returncode == 0, done.stderr


def test_unit_runs_as_an_ordinary_user_and_keeps_its_secret() -> None:
    """Neither root nor a password in the unit; the address comes as a credential."""
    found = unit()
    (credential,) = found["LoadCredential"]

    assert found["User"] == ["fleetpulse"]
    assert found["NoNewPrivileges"] == ["yes"]
    assert f"FLEETPULSE_DATABASE_URL_FILE=%d/{credential.partition(':')[0]}" in found["Environment"]
    assert not [value for value in found["Environment"] if "PASSWORD" in value or "://" in value]


def test_home_is_the_folder_that_systemd_makes() -> None:
    """The spool lies in the unit's own folder."""
    found = unit()

    assert f"FLEETPULSE_HOME=/var/lib/{found['StateDirectory'][0]}" in found["Environment"]
    assert found["StateDirectoryMode"] == ["0700"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.skipif(
    not os.access("/tmp", os.W_OK), reason="systemd-analyze makes a folder in /tmp, wherever else one may"
)
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """systemd knows every key; the program stands where it is here."""
    copy = tmp_path / UNIT.name
    program = shlex.split(unit()["ExecStart"][0])[0]
    copy.write_text(UNIT.read_text().replace(program, str(Path(sys.executable).parent / "fleetpulse")))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert str(copy) not in done.stderr
    assert UNIT.name not in done.stderr
