"""
One object for a database: opened, brought up to this code, lent as sessions, closed.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from storage.clock import DatabaseClock
from storage.database import DatabaseManager
from storage.embedded import EmbeddedServer
from storage.errors import PermanentStorageError, SchemaMismatch, SettingsError, StorageError, TransientStorageError
from storage.models import Host
from storage.service import PersistenceService
from storage.store import Store

pytestmark = pytest.mark.each_kind

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.fixture
def manager(database_url: str) -> Iterator[DatabaseManager]:
    """Return a manager of a fresh database."""
    with DatabaseManager(database_url) as found:
        yield found


def add_hosts(manager: DatabaseManager, *names: str, then: Exception | None = None) -> None:
    """Add hosts in one session, one after the other, and raise *then*."""
    with manager.session() as session:
        for name in names:
            session.add(Host(name=name, created_at=NOW))
            session.flush()
        if then is not None:
            raise then


def hosts(manager: DatabaseManager) -> list[str]:
    """Return the names of the hosts that are there."""
    return [str(name) for (name,) in manager.store.query("SELECT name FROM hosts ORDER BY name").rows]


def test_empty_database_is_made_ready(empty_database_url: str) -> None:
    """From nothing to both halves of the schema; a second time changes nothing."""
    with DatabaseManager(empty_database_url) as manager:
        before = manager.health_check()
        with pytest.raises(SchemaMismatch):
            manager.check_schema()
        manager.create_schema()
        manager.upgrade()
        manager.check_schema()
        after = manager.health_check()

    assert (before.revision, before.timeseries_version, before.is_ready) == (None, 0, False)
    assert (after.revision, after.timeseries_version) == (after.needed_revision, after.needed_timeseries_version)
    assert after.is_ready


def test_database_without_schema_says_so(empty_database_url: str) -> None:
    """Whoever forgot to make the schema is told, instead of being asked to try again."""
    with DatabaseManager(empty_database_url) as manager, PersistenceService(manager) as service:
        asked: tuple[Callable[[], object], ...] = (
            lambda: service.create_workflow("w"),
            service.get_all_agents,
            lambda: manager.store.query("SELECT name FROM agents"),
        )
        for call in asked:
            with pytest.raises(
                SchemaMismatch, match=r'run "fleetpulse db upgrade" or call DatabaseManager.create_schema\(\)$'
            ):
                call()
        manager.create_schema()
        with pytest.raises(TransientStorageError, match="query failed"):
            manager.store.query("SELECT nothing FROM agents")


def test_health_names_the_server(manager: DatabaseManager, engine_name: str) -> None:
    """Engine, product and version are those of the server."""
    health = manager.health_check()

    assert engine_name.startswith(health.engine_name)
    assert health.server_version == manager.store.server_version()
    assert 0 < health.latency_ms < 60_000


def test_session_commits_at_its_end(manager: DatabaseManager) -> None:
    """What a session did is there when its block has ended, not before, and its objects can still be read."""
    with manager.session() as session:
        host = Host(name="a", created_at=NOW)
        session.add(host)
        session.flush()
    with manager.session() as session:
        found = session.scalars(select(Host)).one()

    assert (host.id, host.name) == (found.id, "a")
    assert found.created_at == NOW


def test_session_rolls_back_on_an_error(manager: DatabaseManager) -> None:
    """An error of the caller comes out as it is, and leaves nothing of what was done before it."""
    with pytest.raises(ZeroDivisionError):
        add_hosts(manager, "a", then=ZeroDivisionError())

    assert hosts(manager) == []


def test_session_translates_the_driver(manager: DatabaseManager) -> None:
    """What the driver refuses is an error of storage, with nothing half-written, and the next session works."""
    with pytest.raises(PermanentStorageError) as raised:
        add_hosts(manager, "a", "a")
    add_hosts(manager, "b")

    assert raised.value.sqlstate == "23505"
    assert hosts(manager) == ["b"]


def test_read_only_session_keeps_nothing(manager: DatabaseManager) -> None:
    """What a session for reading changes is rolled back."""
    with manager.session(read_only=True) as session:
        session.add(Host(name="a", created_at=NOW))
        session.flush()

        assert session.scalars(select(Host.name)).all() == ["a"]
    assert hosts(manager) == []


def test_sessions_of_several_threads(manager: DatabaseManager) -> None:
    """Threads have sessions of their own at the same time."""

    def add(number: int) -> None:
        with manager.session() as session:
            session.add(Host(name=f"host-{number:02}", created_at=NOW))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(20)))

    assert hosts(manager) == [f"host-{number:02}" for number in range(20)]


def test_closed_manager_says_so(database_url: str) -> None:
    """After its end a manager opens nothing any more; closing it twice is harmless."""
    manager = DatabaseManager(database_url)
    manager.check_schema()
    manager.close()
    manager.close()

    with pytest.raises(StorageError, match="database is closed: make another DatabaseManager"):
        _ = manager.store
    with pytest.raises(StorageError, match="database is closed"), manager.session():
        pass


@pytest.mark.parametrize("in_memory", [False, True])
def test_closed_database_stays_closed(database_url: str, in_memory: bool) -> None:
    """Whoever uses a service or a store whose database was closed is told: nothing is connected or written again."""
    manager = DatabaseManager("sqlite://" if in_memory else database_url)
    manager.create_schema()
    store, service = manager.store, PersistenceService(manager)
    service.register_agent("a")
    service.update_agent_metrics("a", {"n": 1})
    manager.close()
    asked: tuple[Callable[[], object], ...] = (
        service.get_workflows,
        lambda: service.create_workflow("w"),
        lambda: service.claim_next_task("a"),
        lambda: service.update_agent_metrics("a", {"n": 1}),
        lambda: store.query("SELECT 1"),
        store.provision,
        service.close,
    )
    for call in asked:
        with pytest.raises(StorageError, match="database is closed: open it again") as raised:
            call()
        assert type(raised.value) is StorageError
    store.close()
    if not in_memory:
        with DatabaseManager(database_url) as other:
            assert other.store.query("SELECT count(*) FROM workflows").rows == [(0,)]


def test_closed_service_writes_no_measurements(manager: DatabaseManager) -> None:
    """Its session has ended and is not opened again; everything else needs none, and goes on."""
    with PersistenceService(manager, name="orders") as service:
        service.register_agent("a")
        service.update_agent_metrics("a", {"n": 1})
    with pytest.raises(StorageError, match="service orders is closed: make another PersistenceService"):
        service.update_agent_metrics("a", {"n": 1})

    assert manager.store.query("SELECT count(*), count(ended_at) FROM collector_sessions").rows == [(1, 1)]
    assert service.get_workflows().after is None


def test_clock_is_the_database_s(store: Store) -> None:
    """The clock of a database goes with the server's, to within a round trip, and never back."""
    clock = DatabaseClock(store.now)
    readings = [clock() for _ in range(100)]
    before, read, after = store.now(), clock(), store.now()

    assert readings == sorted(readings)
    assert readings[0].tzinfo is not None
    assert before - timedelta(seconds=1) < read < after + timedelta(seconds=1)


# ---------------------------------------------------------------- without an engine of its own


def test_databases_in_memory_are_apart() -> None:
    """Each manager of a database in memory has one of its own, which ends with it."""
    with DatabaseManager("sqlite://") as one, DatabaseManager("sqlite://") as other:
        one.create_schema()
        other.create_schema()
        with one.session() as session:
            session.add(Host(name="a", created_at=NOW))

        assert (hosts(one), hosts(other)) == (["a"], [])
    with DatabaseManager("sqlite://") as third:
        assert third.health_check().revision is None


def test_bad_address_is_refused() -> None:
    """An address that nobody serves is an error at once."""
    with pytest.raises(SettingsError, match="scheme mysql"):
        DatabaseManager("mysql://somewhere/db")
    with pytest.raises(SettingsError, match="engine timescaledb does not serve"):
        DatabaseManager("sqlite://", engine="timescaledb")


def test_database_that_is_away_is_transient(tmp_path: Path) -> None:
    """A database that cannot be reached is an error of storage that can be waited out."""
    for url in ("postgresql://nobody@127.0.0.1:1/none", f"sqlite:///{tmp_path}/missing/a.db"):
        with DatabaseManager(url) as manager:
            with pytest.raises(TransientStorageError):
                manager.health_check()
            with pytest.raises(TransientStorageError), manager.session() as session:
                session.scalars(select(Host.name)).all()


def test_embedded_server_is_made_and_shared() -> None:
    """Without an address there is the embedded PostgreSQL: two managers share it, and the last one stops it."""
    # Not below pytest's own folder, which it closes to other users: root's server runs as one.
    with tempfile.TemporaryDirectory(prefix="fp-manager-") as folder:
        home = Path(folder) / "home"
        one = DatabaseManager(home=home)
        assert not home.exists()
        started = threading.Barrier(2)

        def make() -> str:
            started.wait()
            one.create_schema()
            return one.health_check().engine_name

        with ThreadPoolExecutor(2) as pool:
            names = [each.result() for each in [pool.submit(make), pool.submit(make)]]
        with DatabaseManager(home=home) as other:
            with other.session() as session:
                session.add(Host(name="a", created_at=NOW))
            one.close()

            assert hosts(other) == ["a"]
        assert names == ["postgresql", "postgresql"]
        assert not EmbeddedServer(home).running
