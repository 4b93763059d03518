"""
The Dockerfile: pinned and slim, an ordinary user, a command that is one, a health check that tells life from death.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.daemon.conditions import eventually
from tests.deploy.compose import ROOT, image, image_environment, services, stages

BIN = Path(sys.executable).parent


def test_base_is_pinned_and_slim() -> None:
    """Both stages start from one Python, the slim one, of the version that the locks were made with."""
    bases = {stage[0].value.split()[0] for stage in stages()}

    assert len(bases) == 1
    found = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-\w+", bases.pop())
    assert found
    assert f"with Python {found[1]}\n" in (ROOT / "requirements.txt").read_text()


def test_image_runs_as_an_ordinary_user() -> None:
    """The last word on the user is a number that is not root's, and nothing is installed as somebody else after it."""
    names = [each.name for each in stages()[-1]]
    user, _, group = image()["USER"].value.partition(":")

    assert int(user) > 0
    assert int(group) > 0
    assert not {"RUN", "COPY", "ADD"} & set(names[names.index("USER") :])
    assert f"--uid {user} " in image()["RUN"].value


def test_everything_that_is_installed_is_locked() -> None:
    """What comes from the index has a hash, and the build itself fetches nothing."""
    installs = [each.value for stage in stages() for each in stage if "pip install" in each.value]

    assert [("--require-hashes" in each, "--no-deps --no-build-isolation" in each) for each in installs] == [
        (True, False),
        (False, True),
    ]


def _copied() -> list[str]:
    return [
        source.rstrip("/")
        for stage in stages()
        for each in stage
        if each.name == "COPY" and not each.value.startswith("--from")
        for source in each.value.split()[:-1]
    ]


def test_context_is_what_is_copied() -> None:
    """The build sees what it copies and nothing else: no secret, no repository, no environment of this machine."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    assert lines[0] == "*"
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(_copied())
    assert [name for name in _copied() if not (ROOT / name).exists()] == []


def test_what_is_copied_is_the_whole_program(tmp_path: Path) -> None:
    """Installed from what the image gets, the program has its packages, statements and revisions."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in _copied():
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]
    subprocess.run([sys.executable, *install, "--target", target, source], check=True, timeout=300)
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = sorted(pattern.rstrip("*") for pattern in included)

    assert sorted(path.name for path in target.iterdir() if (path / "__init__.py").exists()) == packages
    for package in packages:
        held = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*") if _is_source(path)}
        assert held == {path.relative_to(target) for path in (target / package).rglob("*") if _is_source(path)}
    program = "import fleetpulse, sys; from fleetpulse.cli import call; print(fleetpulse.__file__); sys.exit(call())"
    done = subprocess.run(
        [sys.executable, "-c", program, "db", "history"],
        cwd=tmp_path,
        env={"PATH": os.defpath, "PYTHONPATH": str(target)},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith(str(target))
    assert re.search(r"^0001 ", done.stdout, re.MULTILINE)


def _is_source(path: Path) -> bool:
    return path.is_file() and path.suffix in {".py", ".sql", ".mako", ".typed"} and "__pycache__" not in path.parts


def test_health_check_tells_a_daemon_that_lives_from_one_that_does_not(tmp_path: Path) -> None:
    """
    The image's command, under the environment of image and compose file, is healthy soon and ends in order.

    Its database is away, which is none of the daemon's failures; addresses, folders and the port are those of this test.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = tmp_path / "writer_url"
    address.write_text("postgresql://nobody@127.0.0.1:1/nothing\n")
    service = services()["collector"]
    environment = {
        **image_environment(),
        **service["environment"],
        "PATH": f"{BIN}{os.pathsep}{os.defpath}",
        "FLEETPULSE_HOME": str(tmp_path / "home"),
        "FLEETPULSE_CONFIG": str(ROOT / "deploy" / "fleetpulse.toml"),
        "FLEETPULSE_DATABASE_URL_FILE": str(address),
        "FLEETPULSE_COLLECTOR_LISTEN_HOST": "127.0.0.1",
        "FLEETPULSE_COLLECTOR_LISTEN_PORT": str(port),
        "FLEETPULSE_RUN_DEMO_FLEET": "2",
    }
    check: list[str | Path] = [BIN / "python", *image()["HEALTHCHECK"].exec_form()[1:]]

    def healthy() -> bool:
        return subprocess.run(check, env=environment, capture_output=True, timeout=30, check=False).returncode == 0

    assert not healthy()
    log = tmp_path / "log"
    command = [*image()["ENTRYPOINT"].exec_form(), *image()["CMD"].exec_form()]
    with log.open("wb") as said:
        daemon = subprocess.Popen(
            [BIN / command[0], *command[1:]], cwd=tmp_path, env=environment, stdout=said, stderr=said
        )
        try:
            eventually(healthy, "the daemon's health")
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(15) == 0, log.read_text()
        finally:
            daemon.kill()
            daemon.wait(15)

    assert not healthy()
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    started = next(line for line in lines if line.get("event") == "started")
    # Two that are simulated, and itself.
    assert (started["agents"], started["port"]) == (3, port)


def test_health_check_asks_where_the_daemon_listens() -> None:
    """The port is known to image, health check and compose file from one variable."""
    port = image_environment()["FLEETPULSE_COLLECTOR_LISTEN_PORT"]

    assert "FLEETPULSE_COLLECTOR_LISTEN_PORT" in image()["HEALTHCHECK"].value
    assert image()["EXPOSE"].value == port
    assert "FLEETPULSE_COLLECTOR_LISTEN_PORT" not in services()["collector"]["environment"]


def test_spool_is_kept() -> None:
    """The home folder of the image belongs to its user, and is the one that the compose file keeps."""
    home = image_environment()["FLEETPULSE_HOME"]

    assert f"--home-dir {home} --create-home" in image()["RUN"].value
    assert f"collector:{home}" in services()["collector"]["volumes"]
