"""
Fixtures that every test shares: real servers, fresh databases, stores.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from storage.open import open_store
from storage.store import Capability, Store
from tests import servers
from tests.servers import ENGINES, URL_VARIABLES, Servers

#: Enough for tests that are about something else than engines.
DEFAULT_ENGINE = "postgresql"
#: The oldest version that is served: what depends on a server's version is tested on it too.
OLDER_SERVER = "postgresql15"

# A machine that is busy with something else must not fail a property.
hypothesis.settings.register_profile("fleetpulse", deadline=None, print_blob=True)
hypothesis.settings.load_profile("fleetpulse")

_FOLDER = pytest.StashKey[Path]()
_LOCK = pytest.StashKey[int]()
#: Tests that an engine cannot run, counted by engine and by what it lacks.
_LEFT_OUT = pytest.StashKey[dict[str, dict[str, int]]]()


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
def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers ``-n auto`` starts: tests wait for servers for a third of their time."""
    # Not every platform tells which processors a process may use.
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, mine * 3 // 2)


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
    return [f"{engine}: {servers.missing(engine) or servers.version(engine)}" for engine in ENGINES]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is about engines on every one, and what only needs some database on one."""
    if "engine_name" in metafunc.fixturenames:
        # A server of one's own is an extra: without it there is nothing to skip.
        chosen = [engine for engine in ENGINES if engine not in URL_VARIABLES or not servers.missing(engine)]
        everywhere = metafunc.definition.get_closest_marker("every_engine") is not None
        if not everywhere and metafunc.definition.path.parent.name not in ("contract", "migrations"):
            chosen = [DEFAULT_ENGINE]
        if metafunc.definition.get_closest_marker("each_kind") is not None:
            chosen = [engine for engine in chosen if engine != OLDER_SERVER]
        metafunc.parametrize("engine_name", chosen, indirect=True, scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, and count, what an engine lacks the abilities for; begin with what takes long."""
    left_out: dict[str, Counter[str]] = {}
    kept: list[pytest.Item] = []
    gone: list[pytest.Item] = []
    for item in items:
        engine = str(item.callspec.params.get("engine_name", "")) if hasattr(item, "callspec") else ""
        lacking = _lacking(item, engine) if engine else []
        (gone if lacking else kept).append(item)
        if lacking:
            left_out.setdefault(engine, Counter())[lacking[0].value] += 1
    # Behind the others, whoever gets the last of these would keep all waiting.
    items[:] = sorted(kept, key=lambda item: item.get_closest_marker("takes_long") is None)
    if gone:
        config.hook.pytest_deselected(items=gone)
    config.stash[_LEFT_OUT] = {engine: dict(counts) for engine, counts in left_out.items()}
    if hasattr(config, "workeroutput"):
        config.workeroutput["fleetpulse_left_out"] = config.stash[_LEFT_OUT]


def _lacking(item: pytest.Item, engine: str) -> list[Capability]:
    wanted = {capability for marker in item.iter_markers("needs") for capability in marker.args}
    return [capability for capability in Capability if capability in wanted - servers.capabilities(engine)]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Take over what a worker has counted; each has collected the same tests."""
    counted = getattr(node, "workeroutput", {}).get("fleetpulse_left_out")
    if counted is not None:
        node.config.stash[_LEFT_OUT] = counted  # type: ignore[attr-defined]  # xdist's node


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say in one line what was not run, on which engine and why."""
    parts = [_in_words(engine, counts) for engine, counts in sorted(config.stash.get(_LEFT_OUT, {}).items())]
    if parts:
        terminalreporter.write_line(f"left out for want of an ability: {', '.join(parts)}")


def _in_words(engine: str, counts: dict[str, int]) -> str:
    label, elsewhere = engine, set[str]()
    if engine == "timescaledb":
        label = "timescaledb (WebAssembly)"
        if servers.missing("timescaledb-url"):
            more = servers.capabilities("timescaledb-url") - servers.capabilities(engine)
            elsewhere = {capability.value for capability in more}
    total = sum(counts.values())
    reasons = ", ".join(
        f"{reason} {n}" + (f" with {URL_VARIABLES['timescaledb-url']} only" if reason in elsewhere else "")
        for reason, n in sorted(counts.items())
    )
    return f"{label} {total} test{'s' * (total != 1)} ({reasons})"


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
def store(database_url: str, engine_name: str) -> Iterator[Store]:
    """Return a store on a fresh database."""
    found = open_store(database_url)
    try:
        # What was left out was left out for what the engine says of itself.
        assert found.capabilities == servers.capabilities(engine_name)
        yield found
    finally:
        found.close()
