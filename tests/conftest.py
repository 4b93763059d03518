"""
Fixtures that every test shares: real servers, fresh databases, stores.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest

from storage.cluster import Cluster
from storage.open import open_store
from storage.store import Capability, Store
from tests import servers
from tests.servers import OLDEST, URL_VARIABLE, Servers

#: Every engine that a contract test runs on; the first one is enough for tests that are about something else.
ENGINES = ("postgresql", "postgresql15", "postgresql-url")

# A machine that is busy with something else must not fail a property.
hypothesis.settings.register_profile("fleetpulse", deadline=None, print_blob=True)
hypothesis.settings.load_profile("fleetpulse")

_FOLDER = pytest.StashKey[Path]()
_LOCK = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of this suite."""
    parser.addoption(
        "--require-engines",
        default="",
        metavar="NAMES",
        help=f"comma-separated engines that must be there instead of being skipped: {', '.join(ENGINES)}",
    )
    parser.addoption("--long", action="store_true", help="make campaigns of the randomised concurrency tests")


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of this session, or take the one that the controller made."""
    for engine in filter(None, config.getoption("--require-engines").split(",")):
        reason = servers.missing(engine) if engine in ENGINES else f"expected one of {', '.join(ENGINES)}"
        if reason:
            raise pytest.UsageError(f"engine {engine} is required: {reason}")
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        config.stash[_FOLDER] = Path(worker["fleetpulse_folder"])
        return
    servers.sweep()
    config.stash[_FOLDER], config.stash[_LOCK] = servers.make_folder()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Tell a worker of pytest-xdist where the session's servers are."""
    node.workerinput["fleetpulse_folder"] = str(node.config.stash[_FOLDER])  # type: ignore[attr-defined]  # xdist's node


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what is left, and remove the folder."""
    if (lock := config.stash.get(_LOCK, None)) is not None:
        folder = config.stash[_FOLDER]
        Servers(folder).drop_template()
        servers.remove_folder(folder)
        os.close(lock)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Name the servers that this run is about."""
    return [f"{engine}: {servers.missing(engine) or _version(engine)}" for engine in ENGINES]


def _version(engine: str) -> str:
    if engine == "postgresql-url":
        try:
            with psycopg.connect(os.environ[URL_VARIABLE], connect_timeout=5) as connection:
                return f"PostgreSQL {connection.info.parameter_status('server_version')}"
        except psycopg.Error as exc:
            return f"{URL_VARIABLE} cannot be reached: {' '.join(str(exc).split())}"
    programs = OLDEST if engine == "postgresql15" else Cluster(Path()).programs()
    return subprocess.run(
        [programs / "postgres", "--version"], check=True, capture_output=True, text=True, timeout=30
    ).stdout.strip()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses a store on every engine, and what only needs some database on the first."""
    if "engine_name" in metafunc.fixturenames:
        # A server of one's own is an extra: without it there is nothing to skip.
        chosen = [engine for engine in ENGINES if engine != "postgresql-url" or not servers.missing(engine)]
        if metafunc.definition.path.parent.name not in ("contract", "migrations"):
            chosen = [next((engine for engine in chosen if not servers.missing(engine)), ENGINES[0])]
        metafunc.parametrize("engine_name", chosen, indirect=True, scope="session")


@pytest.fixture(scope="session")
def database_servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Return the servers of this session."""
    found = Servers(request.config.stash[_FOLDER])
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(scope="session")
def engine_name(request: pytest.FixtureRequest) -> str:
    """Return the engine that the test runs on."""
    name: str = request.param
    if reason := servers.missing(name):
        pytest.skip(reason)
    return name


@pytest.fixture
def database_url(database_servers: Servers, engine_name: str) -> Iterator[str]:
    """Return the address of a fresh database with both halves of the schema."""
    with database_servers.database(engine_name) as url:
        yield url


@pytest.fixture
def empty_database_url(database_servers: Servers, engine_name: str) -> Iterator[str]:
    """Return the address of a fresh database with nothing in it."""
    with database_servers.database(engine_name, empty=True) as url:
        yield url


@pytest.fixture
def store(database_url: str, request: pytest.FixtureRequest) -> Iterator[Store]:
    """Return a store on a fresh database; skip where it lacks what the test ``needs``."""
    found = open_store(database_url)
    try:
        marker = request.node.get_closest_marker("needs")
        wanted: tuple[Capability, ...] = marker.args if marker else ()
        for capability in wanted:
            if capability not in found.capabilities:
                pytest.skip(f"{found.engine_name} has no {capability.value}")
        yield found
    finally:
        found.close()
