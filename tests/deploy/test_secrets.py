"""
``deploy/make-secrets``: random passwords that others cannot read, made once.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.compose import ROOT

PASSWORDS = ("postgres_password", "owner_password", "writer_password", "reader_password", "grafana_admin_password")
URLS = ("superuser_url", "owner_url", "writer_url")


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Return a copy of the script with a folder of its own."""
    (tmp_path / "deploy").mkdir()
    return Path(shutil.copy(ROOT / "deploy" / "make-secrets", tmp_path / "deploy"))


def run(script: Path) -> subprocess.CompletedProcess[str]:
    """Run the script from somewhere else, with a careless umask."""
    return subprocess.run([script], cwd="/", capture_output=True, text=True, timeout=30, check=False, umask=0)


def test_passwords_are_random(script: Path) -> None:
    """Every password has 192 bits of its own, and none is shown."""
    done = run(script)
    folder = script.parent / "secrets"
    passwords = [(folder / name).read_text() for name in PASSWORDS]

    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == sorted([*PASSWORDS, *URLS])
    assert len(set(passwords)) == len(PASSWORDS)
    for password in passwords:
        assert len(bytes.fromhex(password)) == 24
        assert password.strip() not in done.stdout + done.stderr


def test_two_runs_make_other_passwords(script: Path, tmp_path: Path) -> None:
    """Nothing is derived from anything that two machines have in common."""
    shutil.copytree(script.parent, tmp_path / "other")
    assert run(script).returncode == run(tmp_path / "other" / script.name).returncode == 0
    made = {
        (folder / "secrets" / name).read_text() for folder in (script.parent, tmp_path / "other") for name in PASSWORDS
    }

    assert len(made) == 2 * len(PASSWORDS)


def test_folder_is_closed_to_others(script: Path) -> None:
    """Containers read the files under ids of their own; on this machine the folder lets nobody else through."""
    run(script)
    folder = script.parent / "secrets"

    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444}


@pytest.mark.parametrize("kept", [*PASSWORDS, *URLS])
def test_what_is_there_is_never_overwritten(script: Path, kept: str) -> None:
    """One file of the set is enough to leave everything as it was."""
    folder = script.parent / "secrets"
    folder.mkdir()
    (folder / kept).write_text("mine")
    done = run(script)

    assert done.returncode == 1
    assert f"error: {folder / kept} is there already, nothing was written" in done.stderr
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(kept, "mine")]


def test_link_that_leads_nowhere_is_not_followed(script: Path, tmp_path: Path) -> None:
    """A secret is not written to where somebody else's link points."""
    folder = script.parent / "secrets"
    folder.mkdir()
    (folder / "writer_url").symlink_to(tmp_path / "elsewhere")

    assert run(script).returncode == 1
    assert not (tmp_path / "elsewhere").exists()


def test_git_does_not_see_them() -> None:
    """The folder in the repository holds nothing but the rule that ignores everything else."""
    rules = (ROOT / "deploy" / "secrets" / ".gitignore").read_text().splitlines()

    assert [rule for rule in rules if not rule.startswith("#")] == ["*", "!.gitignore"]
