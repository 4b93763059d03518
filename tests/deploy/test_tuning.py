"""
``deploy/postgresql.conf``: PostgreSQL takes it, its numbers fit each other, and each has its reason.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from storage.cluster import Cluster
from storage.pg.connection import POOL_OVERFLOW, POOL_SIZE
from tests.deploy.compose import ROOT, services

CONF = ROOT / "deploy" / "postgresql.conf"
_SETTING = re.compile(r"^(?P<name>[\w.]+) = (?P<value>.+)$")
_UNITS = {"MB": 1024**2, "GB": 1024**3, "m": 1024**2, "g": 1024**3}


def settings() -> dict[str, str]:
    """Return the settings of the file."""
    found = [_SETTING.match(line) for line in CONF.read_text().splitlines() if line and not line.startswith("#")]
    assert None not in found
    return {match["name"]: match["value"].strip("'") for match in found if match}


def size(text: str) -> int:
    """Return a size in bytes."""
    found = re.fullmatch(r"(\d+)([A-Za-z]+)", text)
    assert found, text
    return int(found[1]) * _UNITS[found[2]]


def test_every_setting_has_its_reason() -> None:
    """Above each setting, or above the group that it belongs to, stands a comment."""
    bare: list[str] = []
    reason = False
    for line in CONF.read_text().splitlines():
        if _SETTING.match(line) and not reason:
            bare.append(line)
        # Settings that follow each other share one; a blank line ends it, and a heading is none.
        reason = bool(line) and (reason or line.startswith("#")) and not line.startswith("# ---")

    assert bare == []


def _read_by_postgresql(conf: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Have PostgreSQL read the whole file and tell one setting; no server is started."""
    postgres = Cluster(folder).programs() / "postgres"
    command: list[str | Path] = [postgres, "-C", "shared_buffers", "-D", folder, "-c", f"config_file={conf}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_settings_are_those_that_postgresql_takes(tmp_path: Path) -> None:
    """The server knows each setting and takes its value; those of the extension it has to take on trust."""
    done = _read_by_postgresql(CONF, tmp_path)

    assert done.returncode == 0, done.stderr
    # In pages of 8 kB.
    assert int(done.stdout) * 8192 == size(settings()["shared_buffers"])


@pytest.mark.parametrize("line", ["shared_bufers = 1GB", "max_wal_size = 4GX", "jit = perhaps"])
def test_wrong_setting_would_be_noticed(tmp_path: Path, line: str) -> None:
    """The look at the settings above is not blind."""
    conf = tmp_path / "wrong.conf"
    conf.write_text(f"{CONF.read_text()}\n{line}\n")

    assert _read_by_postgresql(conf, tmp_path).returncode != 0


def test_memory_fits_the_container() -> None:
    """Buffers take a quarter of what the container has; buffers and what is cached around them leave some for the rest."""
    limit = size(services()["database"]["mem_limit"])

    assert size(settings()["shared_buffers"]) * 4 == limit
    assert size(settings()["effective_cache_size"]) * 4 == 3 * limit


def test_workers_fit_each_other() -> None:
    """Jobs of the extension and parallel queries have room beside each other, with some to spare."""
    number = {name: int(value) for name, value in settings().items() if value.isdecimal()}
    needed = number["timescaledb.max_background_workers"] + number["max_parallel_workers"]

    assert needed + 2 <= number["max_worker_processes"]
    assert number["max_parallel_workers_per_gather"] <= number["max_parallel_workers"]


def test_connections_suffice() -> None:
    """Collector, maintenance and Grafana together leave some for people and backups."""
    source = ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "fleetpulse.yaml"
    grafana = yaml.safe_load(source.read_text())["datasources"][0]["jsonData"]["maxOpenConns"]
    pool = POOL_SIZE + POOL_OVERFLOW + 1

    assert 2 * pool + grafana + 5 <= int(settings()["max_connections"])


def test_what_must_be_so() -> None:
    """The extension is loaded, commits are durable, nothing is reported to anybody."""
    found = settings()

    assert found["shared_preload_libraries"] == "timescaledb"
    assert found["synchronous_commit"] == "on"
    assert found["timescaledb.telemetry_level"] == "off"
    assert found["jit"] == "off"
    assert not {"fsync", "full_page_writes"} & set(found)
