"""
The writer on a real database that is made to fail: back-off, replay, what can never be written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collector.buffer import Buffer
from collector.config import SpoolConfig
from collector.spool import Spool
from collector.timeline import wall_us
from collector.writer import Writer
from storage.batch import Batch, WriteResult
from storage.errors import BatchError, FleetpulseError, SettingsError, TransientStorageError
from storage.model import AgentSpec, Outcome, Session
from storage.open import open_store
from storage.repositories import AgentRepository
from storage.store import Store
from tests.batches import SESSION
from tests.daemon.conditions import eventually

AGENT = AgentSpec(name="a", endpoint="http://127.0.0.1:1/", interval_s=1.0, timeout_s=1.0)
WAIT_S = 20.0


class Faulty:
    """
    A real store whose next calls fail as told.

    Args:
        faults: What the next writes do: an error to raise instead, ``after`` to write and then lose the answer, or
            ``None`` to work.
    """

    def __init__(self, store: Store, faults: list[Exception | str | None]) -> None:
        self._store = store
        self.faults = faults
        self.identity = ""
        self.claims = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, batch: Batch) -> WriteResult:
        """Write, or fail."""
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        result = self._store.write(batch)
        if fault == "after":
            raise TransientStorageError("connection was cut while the answer was on its way")
        return result

    def claim_collector(self, name: str) -> None:
        """Count how often the database was claimed."""
        self.claims += 1
        self._store.claim_collector(name)

    def server_identity(self) -> str:
        """Return the real identity, or another server's."""
        return self.identity or self._store.server_identity()


class Bench:
    """A writer between a real spool and a real database."""

    def __init__(self, folder: Path, url: str) -> None:
        self.spool = Spool(folder, SpoolConfig())
        self.store = Faulty(open_store(url), [])
        self.agents: list[Sequence[AgentSpec]] = []
        self.writer = self.make()
        self._k = 0
        self._base_us = wall_us() // 1_000_000 * 1_000_000 - 3_600_000_000

    def make(self, *agents: AgentSpec, session: Session = SESSION) -> Writer:
        """Return a writer that was not started."""
        return Writer(
            lambda: self.store,
            self.spool,
            session,
            agents or (AGENT,),
            on_agents=self.agents.append,
            on_end=lambda: None,
        )

    def append(self, n: int = 1) -> None:
        """Put *n* batches of one check each into the spool."""
        for _ in range(n):
            buffer = Buffer()
            buffer.add("a", self._base_us + self._k * 1_000_000, Outcome.HEALTHY, 0, 1, 200, "")
            self._k += 1
            self.spool.append(buffer.take(0), SESSION).result(WAIT_S)

    def finish(self) -> None:
        """Wait until everything is written, and end."""
        eventually(lambda: self.spool.take(0) is None, "the spool to be empty")
        self.writer.stop(WAIT_S)
        assert self.writer.join(WAIT_S)

    def close(self) -> None:
        """End what is left."""
        if self.writer.started:
            self.writer.stop(0)
            assert self.writer.join(WAIT_S)
        else:
            self.store.close()
        self.spool.close()


@pytest.fixture
def bench(tmp_path: Path, database_url: str) -> Iterator[Bench]:
    """Return a writer with all around it."""
    found = Bench(tmp_path, database_url)
    try:
        yield found
    finally:
        found.close()


def number(store: Store, sql: str) -> int:
    """Return the one number that *sql* answers."""
    return int(str(store.query(sql).rows[0][0]))


def test_transient_errors_lose_and_double_nothing(bench: Bench, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A write that failed, or whose answer was lost, is offered again; of failures in a row one is logged."""
    cut = TransientStorageError("server closed the connection")
    bench.store.faults = [None, cut, cut, "after", None, cut]
    bench.append(6)
    with caplog.at_level(logging.INFO, "collector"):
        bench.writer.start()
        bench.finish()
    stats = bench.writer.stats()

    assert number(store, "SELECT count(*) FROM health_checks") == 6
    assert number(store, "SELECT count(DISTINCT ts) FROM health_checks") == 6
    assert (stats.batches, stats.replayed, stats.rows, stats.failures) == (6, 1, 5, 4)
    assert bench.store.claims == 1 + 4, "a connection that came back has to claim the database again"
    assert bench.writer.fatal is None
    assert [e for r in caplog.records if (e := getattr(r, "event", "")).startswith("database_")] == [
        "database_up",
        "database_down",
        "database_up",
        "database_down",
        "database_up",
    ], "three failures in a row are one"


def test_batch_that_can_never_be_written_becomes_a_loss(bench: Bench, store: Store) -> None:
    """A malformed batch holds nothing up: it is set aside, its slots are losses, the ledger knows its number."""
    bench.append(3)
    bench.store.faults = [None, BatchError("batch is malformed")]
    bench.writer.start()
    eventually(lambda: bench.writer.stats().set_aside, "the batch to be set aside")
    bench.append()
    bench.finish()
    losses = store.query("SELECT a.name, l.n, l.reason FROM losses l JOIN agents a ON a.id = l.agent_id").rows
    ledger = store.query("SELECT seq, status FROM ingest_batches ORDER BY seq").rows

    assert number(store, "SELECT count(*) FROM health_checks") == 3
    assert [tuple(row) for row in losses] == [("a", 1, "quarantined")]
    assert [tuple(row) for row in ledger] == [(1, "committed"), (2, "dropped"), (3, "committed"), (4, "committed")]


def test_other_server_gets_what_it_may_lack(bench: Bench, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """After a failover recent batches are offered again, and a server that has them all writes none twice."""
    bench.append(5)
    bench.writer.start()
    bench.finish()
    bench.store = Faulty(open_store(str(store.engine.url.render_as_string(hide_password=False))), [])
    bench.store.identity = "another/2/server"
    bench.writer = bench.make(session=replace(SESSION, uuid="6a0f6f8e-0000-4000-8000-000000000002"))
    with caplog.at_level(logging.WARNING):
        bench.writer.start()
        bench.finish()

    assert number(store, "SELECT count(*) FROM health_checks") == 5
    assert bench.writer.stats().replayed == 5
    assert "5 committed batches are offered again" in caplog.text


def test_agents_are_synchronised_before_the_first_write(bench: Bench, store: Store) -> None:
    """The file's agents are in the database, with all that describes them, and the list comes back to be polled."""
    bench.append()
    bench.writer.start()
    bench.finish()
    (record,) = AgentRepository(store.engine).list()

    assert (record.spec, record.status) == (AGENT, "unknown")
    assert [list(specs) for specs in bench.agents] == [[AGENT]]


def test_settings_that_contradict_the_database_end_the_daemon(bench: Bench, store: Store) -> None:
    """An agent of the file that somebody added to the database, too, is named instead of polled twice."""
    AgentRepository(store.engine).add(AGENT, SESSION.started_at)
    bench.writer.start()
    assert bench.writer.join(WAIT_S)

    assert isinstance(bench.writer.fatal, SettingsError)
    assert 'agent "a" is in' in str(bench.writer.fatal)


def test_unexpected_error_ends_the_writer_loudly(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A defect in the writer is not retried for ever: traceback in the log, an error for the daemon."""
    bench.store.faults = [ZeroDivisionError("a defect")]
    bench.append()
    bench.writer.start()
    assert bench.writer.join(WAIT_S)

    assert type(bench.writer.fatal) is FleetpulseError
    assert "ZeroDivisionError: a defect" in caplog.text


def test_agents_are_scheduled_from_the_start_of_the_session(bench: Bench, store: Store) -> None:
    """Polls that waited for a database are of scheduled slots: agents are scheduled as of the collector's start."""
    bench.append()
    bench.writer.start()
    bench.finish()
    rows = store.query("SELECT from_ts FROM agent_schedules").rows

    assert rows == [(SESSION.started_at,)]
