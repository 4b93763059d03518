"""
The compose file: what it starts is pinned, closed to others and checked, and everything that it names is there.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleetpulse.settings import Settings, load_settings
from rollups.policy import RetentionPolicy
from tests.deploy.compose import ROOT, image, interpolated, project, services

LONG_RUNNING = {"database", "collector", "maintenance", "grafana"}
OWN = {"migrate", "collector", "maintenance"}
#: A key that speaks of a password, and a value that is not what Grafana reads a file for.
_LITERAL = re.compile(
    r"""(?im)^[\s-]*["']?\w*(?:password|passwd|secret|token)["']?\s*[:=]\s*["']?(?!\$__file\{)[\w+/]"""
)
_NAMES = pytest.mark.parametrize("name", sorted(services()))


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("FLEETPULSE_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of secrets as ``deploy/make-secrets`` makes it."""
    folder = tmp_path_factory.mktemp("deploy")
    shutil.copy(ROOT / "deploy" / "make-secrets", folder)
    subprocess.run([folder / "make-secrets"], check=True, capture_output=True, timeout=30)
    return folder / "secrets"


def test_services_are_those_that_are_documented() -> None:
    """Four that stay and one that ends."""
    assert set(services()) == LONG_RUNNING | {"migrate"}
    assert {name for name, each in services().items() if each["restart"] == "unless-stopped"} == LONG_RUNNING
    assert services()["migrate"]["restart"] == "no"


@_NAMES
def test_image_is_pinned(name: str) -> None:
    """No service changes its version by itself; our own is that of this project."""
    found = services()[name]["image"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+[\w.-]*", found), found
    assert (found == f"fleetpulse:{version}") == (name in OWN)


def test_own_image_is_built_once_and_never_fetched() -> None:
    """Our image comes from these sources, by the service that the others wait for; a registry may have another one."""
    builds = {name: each.get("build") for name, each in services().items() if "build" in each}
    fetched = {name for name in OWN if services()[name].get("pull_policy") != "never"}

    assert builds == {"migrate": "."}
    assert fetched == {"migrate"}


@_NAMES
def test_ports_are_bound_to_this_machine(name: str) -> None:
    """What is published reaches nobody else."""
    for port in services()[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port


def test_ports_reach_what_listens() -> None:
    """The published ports are those on which database, collector and Grafana listen."""
    found = {name: [port.rpartition(":")[2] for port in each.get("ports", [])] for name, each in services().items()}

    assert found == {"database": ["5432"], "collector": ["9817"], "grafana": ["3000"], "migrate": [], "maintenance": []}
    assert image()["EXPOSE"].value == "9817"


def test_files_hold_no_password() -> None:
    """Passwords come out of files that are not here: nothing looks like one, in the compose file or beside it."""
    held = [ROOT / "docker-compose.yml", ROOT / "Dockerfile", *(ROOT / "deploy").rglob("*")]
    address = re.compile(r"://[^/\s:@]+:(?!\$|password@)[^/\s@]+@")
    for path in held:
        if not path.is_file() or path.parent.name == "secrets" or path.name == "make-secrets":
            continue
        text = path.read_text(encoding="utf-8")

        assert address.search(text) is None, f"{path} holds an address with a password"
        assert _LITERAL.search(text) is None, f"{path} holds {_LITERAL.search(text)}"


@pytest.mark.parametrize("line", ["  POSTGRES_PASSWORD: x1", "password = 'y'", "- GF_TOKEN=abc"])
def test_what_looks_like_a_password_is_found(line: str) -> None:
    """The look for passwords would find one."""
    assert _LITERAL.search(line)


def test_secrets_are_those_that_are_made(secrets: Path) -> None:
    """Every secret is a file that make-secrets makes, and the other way round."""
    found = {name: each["file"] for name, each in project()["secrets"].items()}

    assert found == {path.name: f"deploy/secrets/{path.name}" for path in secrets.iterdir()}


@_NAMES
def test_service_has_the_secrets_that_it_reads_and_no_others(name: str) -> None:
    """A secret that is read is mounted, and one that is mounted is read."""
    service = services()[name]
    told = yaml.safe_dump({key: service.get(key) for key in ("environment", "command")})
    for volume in service.get("volumes", []):
        source = ROOT / volume.split(":")[0]
        if volume.startswith("./"):
            told += "".join(path.read_text() for path in ([source] if source.is_file() else source.rglob("*.yaml")))

    assert sorted(set(re.findall(r"/run/secrets/(\w+)", told))) == sorted(service["secrets"])


def test_every_address_leads_to_the_database(secrets: Path) -> None:
    """The addresses name the service, its database and one role each, with the password that the role is given."""
    database = services()["database"]["environment"]["POSTGRES_DB"]
    for role, name, password in (
        ("postgres", "superuser_url", "postgres_password"),
        ("fleetpulse_owner", "owner_url", "owner_password"),
        ("fleetpulse_writer", "writer_url", "writer_password"),
    ):
        secret = (secrets / password).read_text().strip()

        assert (secrets / name).read_text() == f"postgresql://{role}:{secret}@database:5432/{database}\n"


@pytest.mark.parametrize("name", sorted(LONG_RUNNING))
def test_health_is_checked(name: str) -> None:
    """Whatever answers is asked; the collector by its image, and the maintenance, which has no page, not at all."""
    check: Any = services()[name].get("healthcheck")

    if name == "collector":
        assert check is None
        assert "/health" in image()["HEALTHCHECK"].value
    elif name == "maintenance":
        assert check == {"disable": True}
    else:
        assert check["test"][0] == "CMD"
        assert {"interval", "timeout", "retries", "start_period"} <= set(check)


def test_start_waits_for_what_it_needs() -> None:
    """Nobody starts before the database answers, and nobody who needs schema or roles before they are there."""
    found = {
        name: {other: how["condition"] for other, how in each.get("depends_on", {}).items()}
        for name, each in services().items()
    }
    ready = {"database": "service_healthy", "migrate": "service_completed_successfully"}

    assert found == {
        "database": {},
        "migrate": {"database": "service_healthy"},
        "collector": ready,
        "maintenance": ready,
        "grafana": ready,
    }


def test_volumes_are_named_and_files_are_there() -> None:
    """What is kept has a name; what is mounted from here exists and cannot be written."""
    named = set()
    for name, service in services().items():
        for volume in service.get("volumes", []):
            source, _, rest = volume.partition(":")
            if source.startswith("./"):
                assert (ROOT / source).exists(), f"{name}: {source}"
                assert rest.endswith(":ro"), f"{name}: {volume}"
            else:
                named.add(source)
                assert re.fullmatch(r"[a-z]+", source), f"{name}: {volume}"

    assert named == set(project()["volumes"]) == {"database", "collector", "grafana"}


@pytest.mark.parametrize("name", sorted(OWN | {"grafana"}))
def test_container_may_do_little(name: str) -> None:
    """No capability, no way to more; our own containers write to their volume alone."""
    service = services()[name]

    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service.get("read_only", False) == (name in OWN)


def _commands(*names: str) -> list[list[str]]:
    """Return every command of fleetpulse that services run, as it would be typed."""
    found: list[list[str]] = []
    entry = image()["ENTRYPOINT"].exec_form()
    for name in names or sorted(OWN):
        service = services()[name]
        command = service.get("command", image()["CMD"].exec_form())
        if service.get("entrypoint", entry) == entry:
            found.append([*entry, *command])
        else:
            assert service["entrypoint"] == ["/bin/sh", "-euc"]
            found.extend(shlex.split(each) for each in command[0].split("&&"))
    return found


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_commands_are_those_of_the_command_line(command: list[str]) -> None:
    """Every command that a container runs is one, with flags that it knows."""
    assert command[0] == "fleetpulse"
    assert _help(*command)


@functools.cache
def _help(*command: str) -> str:
    program = Path(sys.executable).parent / "fleetpulse"
    done = subprocess.run([program, *command[1:], "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    # Lines are wrapped.
    return " ".join(done.stdout.split())


@pytest.mark.parametrize("name", sorted(OWN))
def test_variables_are_those_of_the_commands(name: str) -> None:
    """Every variable of ours is a setting, or a flag of a command that the service runs: a typo would do nothing."""
    told = "".join(_help(*command) for command in _commands(name))
    sections = ("FLEETPULSE_DATABASE_", "FLEETPULSE_COLLECTOR_")
    for variable in services()[name]["environment"]:
        # The settings complain of variables that they do not know, which another test has them do.
        assert variable.startswith(sections) or f"env var: {variable}" in told, variable


def test_there_are_commands() -> None:
    """The test above is about upgrade, roles, the collector and the maintenance."""
    assert sorted(" ".join(command[:3]) for command in _commands()) == [
        "fleetpulse db roles",
        "fleetpulse db upgrade",
        "fleetpulse maintain",
        "fleetpulse run",
    ]


def _settings(name: str, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the settings that the commands of a service read, with its secrets in *secrets*."""
    service = services()[name]
    for key, value in service["environment"].items():
        if key.startswith("FLEETPULSE_"):
            monkeypatch.setenv(key, str(value).replace("/run/secrets", str(secrets)))
    # Neither a file of the folder that the tests run in, nor one of whoever runs them.
    monkeypatch.chdir(secrets)
    monkeypatch.setenv("FLEETPULSE_HOME", str(secrets))
    config = service["environment"].get("FLEETPULSE_CONFIG")
    return load_settings(None if config is None else _source(service, config))


@pytest.mark.parametrize(("name", "url"), [("migrate", "superuser"), ("collector", "writer"), ("maintenance", "owner")])
def test_service_speaks_as_its_role(name: str, url: str, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of each service are settings, and lead it to the database under the address that is meant for it."""
    found = _settings(name, secrets, monkeypatch).database_url()

    assert found == (secrets / f"{url}_url").read_text().strip()


@pytest.mark.parametrize("name", ["collector", "maintenance"])
def test_settings_are_understood(name: str, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings file says what it says it does: the defaults of retention, and a host that keeps its name."""
    settings = _settings(name, secrets, monkeypatch)
    policy, default = settings.retention_policy(), RetentionPolicy()

    assert settings.collector.listen_host == ("0.0.0.0" if name == "collector" else "127.0.0.1")
    assert settings.collector.host == "docker"
    assert (policy.raw, policy.m1, policy.h1, policy.d1) == (default.raw, default.m1, default.h1, default.d1)


def _source(service: dict[str, Any], target: str) -> Path:
    """Return the file of this project that *service* sees as *target*."""
    volumes: list[str] = service["volumes"]
    return next(ROOT / each.split(":")[0] for each in volumes if each.split(":")[1] == target)


def test_files_are_where_services_look_for_them() -> None:
    """The paths that commands and variables name are those that files are mounted at."""
    database, grafana = services()["database"], services()["grafana"]
    config = database["command"][-1].removeprefix("config_file=")
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    providers = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/fleetpulse.yaml").read_text())[
        "providers"
    ]

    assert _source(database, config).name == "postgresql.conf"
    assert (_source(grafana, str(Path(home).parent)) / Path(home).name).is_file()
    assert [each["options"]["path"] for each in providers] == [str(Path(home).parent)]


def test_variables_have_defaults() -> None:
    """Without an environment there is a value for each variable; one without a default is noticed."""
    assert interpolated("a ${B:-c} d") == "a c d"
    with pytest.raises(AssertionError, match="without a default"):
        interpolated("${PASSWORD}")
