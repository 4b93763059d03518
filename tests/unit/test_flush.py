"""
From the buffer to the spool: nothing is lost while the disk refuses, and what must be given up is counted.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from collector.buffer import Buffer
from collector.config import SpoolConfig
from collector.counters import Counters
from collector.flush import Flusher
from collector.poll import PolledAgent, Poller
from collector.probes.reading import Reading
from collector.registry import MisconfiguredProbe
from collector.spool import Spool
from collector.spool_database import SpoolUnavailable
from collector.spool_file import SpoolFile
from collector.status import StatusMachine
from collector.tally import Tally
from storage.batch import Batch
from storage.model import AgentSpec, Kind, MetricKey, Outcome, Transition, to_us
from tests.batches import NOON, SESSION

NOON_US = to_us(NOON)
REQUESTS = [MetricKey(name="requests_total", kind=Kind.COUNTER)]
WAIT_S = 20


class Bench:
    """A flusher on a real spool, and an agent whose counter goes up by one a second."""

    def __init__(self, folder: Path, *, max_bytes: int = 1024**3, **options: Any) -> None:
        self.buffer, self.tally = Buffer(), Tally()
        self.now_us = NOON_US
        self.poller = Poller(self.buffer, lambda: self.now_us, self.tally)
        self.spool = Spool(folder, SpoolConfig(max_bytes=max_bytes))
        self.flusher = Flusher(
            self.buffer, self.poller, self.spool, SESSION, self.tally, lambda: self.now_us, **options
        )
        spec = AgentSpec(name="a", interval_s=1.0)
        machine = StatusMachine("a", rise=1, fall=1)
        self.agent = PolledAgent(spec, MisconfiguredProbe(""), Counters(), machine)

    def poll(self, n: int = 1) -> None:
        """Accept *n* answers, a second apart."""
        for _ in range(n):
            count = float(self.now_us // 1_000_000)
            reading = Reading(outcome=Outcome.HEALTHY, latency_ms=1.0, metrics=REQUESTS, values=[count])
            self.poller._accept(self.agent, self.now_us, 0.0, reading)
            self.now_us += 1_000_000

    def disk(self, pages: int) -> None:
        """Give the spool's file so many pages: SQLite refuses beyond them as it does on a full disk."""
        self.spool._ask(lambda file: file._db.connection.execute(f"PRAGMA max_page_count = {pages}")).result(WAIT_S)

    def drain(self) -> list[Batch]:
        """Return every batch in the spool, oldest first."""
        found = []
        while (batch := self.spool.take(0)) is not None:
            found.append(batch)
            self.spool.committed(batch)
        return sorted(found, key=lambda batch: batch.seq)


def go(work: Coroutine[None, None, None]) -> None:
    """Run *work* to its end, within a deadline."""
    asyncio.run(asyncio.wait_for(work, WAIT_S))


def test_flush_writes_batch_and_baselines_together(tmp_path: Path) -> None:
    """After a flush the spool has the rows, and the counter's value of the very same moment."""
    bench = Bench(tmp_path)

    async def work() -> None:
        assert await bench.flusher.flush(), "nothing to do is done"
        bench.poll(3)
        assert await bench.flusher.flush()
        assert bench.flusher.waiting_rows == 0

    try:
        go(work())
        (batch,) = bench.drain()
        (state,) = bench.spool.baselines()
    finally:
        bench.spool.close()
    counters = Counters.load_parts(state.keys or b"", state.values)
    later = Reading(outcome=Outcome.HEALTHY, metrics=REQUESTS, values=[bench.now_us / 1e6 + 9])

    assert (len(batch.checks), batch.agent_samples.value.tolist()) == (3, [1.0, 1.0])
    assert batch.observed_to_us == bench.now_us
    assert counters.deltas(later)[1] == [10.0], "the next poll counts from the last value that is in the spool"


def test_flush_that_is_cut_off_is_not_handed_over_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the daemon cancels a flush that waits for the disk: what the spool writes then is written once."""
    bench = Bench(tmp_path)
    disk_is_slow, writing = threading.Event(), threading.Event()
    append = SpoolFile.append

    def slow_append(file: SpoolFile, *arguments: Any) -> list[Batch]:
        writing.set()
        disk_is_slow.wait(WAIT_S)
        return append(file, *arguments)

    monkeypatch.setattr(SpoolFile, "append", slow_append)

    async def work() -> None:
        bench.poll(3)
        cut_off = asyncio.create_task(bench.flusher.flush())
        await asyncio.get_running_loop().run_in_executor(None, writing.wait, WAIT_S)
        cut_off.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cut_off
        bench.poll(2)
        disk_is_slow.set()
        assert await bench.flusher.flush()
        assert bench.flusher.waiting_rows == 0

    try:
        go(work())
        batches = bench.drain()
    finally:
        disk_is_slow.set()
        bench.spool.close()

    assert [len(batch.checks) for batch in batches] == [3, 2]


def test_refusing_disk_costs_nothing_once_it_takes_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the spool refused goes first when it takes again, names of counters included; each change is said once."""
    bench = Bench(tmp_path)

    async def work() -> None:
        bench.disk(1)
        for _ in range(3):
            # Each flush is too large for the page that is left.
            bench.poll(1000)
            assert not await bench.flusher.flush()
        assert bench.flusher.waiting_rows == 6000 - 1
        bench.disk(1_000_000)
        assert await bench.flusher.flush()

    try:
        with caplog.at_level(logging.INFO, "collector"):
            go(work())
        batches = bench.drain()
        (state,) = bench.spool.baselines()
    finally:
        bench.spool.close()

    assert [int(ts) for batch in batches for ts in batch.checks.ts_us] == [NOON_US + k * 1_000_000 for k in range(3000)]
    assert sum(float(batch.agent_samples.value.sum()) for batch in batches) == 2999.0
    assert len(Counters.load_parts(state.keys or b"", state.values)) == 1
    assert [getattr(record, "event", "") for record in caplog.records] == ["spool_refused", "spool_recovered"]


def test_disk_that_refuses_for_too_long_makes_losses(tmp_path: Path) -> None:
    """Beyond the bound on memory the oldest batches are given up: every slot is a check or a loss, transitions stay."""
    bench = Bench(tmp_path, max_waiting_rows=5000)
    change = Transition(agent="a", due=NOON, old="unknown", new="healthy")

    async def work() -> None:
        bench.disk(1)
        for _ in range(6):
            bench.poll(1000)
            assert not await bench.flusher.flush()
            assert bench.flusher.waiting_rows <= 7000
        bench.disk(1_000_000)
        assert await bench.flusher.flush()

    try:
        go(work())
        batches = bench.drain()
    finally:
        bench.spool.close()
    kept = [int(ts) for batch in batches for ts in batch.checks.ts_us]
    losses = [loss for batch in batches for loss in batch.losses]

    assert kept == [NOON_US + k * 1_000_000 for k in range(6000 - len(kept), 6000)]
    assert 0 < len(kept) <= 3000
    assert sum(loss.n for loss in losses) == 6000 - len(kept)
    assert {(loss.agent, loss.reason) for loss in losses} == {("a", "spool_full")}
    assert min(to_us(loss.from_due) for loss in losses) == NOON_US
    assert change in [found for batch in batches for found in batch.transitions]
    assert bench.tally.lost_slots == 6000 - len(kept)


def test_small_spool_takes_again_after_a_long_refusal(tmp_path: Path) -> None:
    """What waits is bounded by what the spool can take at once, so it is never refused for its size."""
    bench = Bench(tmp_path, max_bytes=16 * 1024 * 1024)

    async def work() -> None:
        bench.disk(1)
        for _ in range(30):
            bench.poll(10_000)
            assert not await bench.flusher.flush()
        bench.disk(1_000_000)
        assert await bench.flusher.flush()

    try:
        go(work())
        batches = bench.drain()
    finally:
        bench.spool.close()

    kept = sum(len(batch.checks) for batch in batches)
    lost = sum(loss.n for batch in batches for loss in batch.losses)
    assert kept + lost == 300_000
    assert 0 < kept < 200_000
    assert not bench.flusher.refused


def test_transition_that_was_given_up_goes_before_later_ones(tmp_path: Path) -> None:
    """A batch that is given up leaves its transition to the next one, where the later transition still is the last."""
    bench = Bench(tmp_path, max_waiting_rows=3000)
    down = Transition(agent="a", due=NOON, old="healthy", new="timeout")
    up = Transition(agent="a", due=NOON + timedelta(seconds=1), old="timeout", new="healthy")

    async def work() -> None:
        bench.disk(1)
        for change in (down, up):
            bench.poll(1000)
            # The poll's own transition is no part of this.
            bench.buffer._transitions = [change]
            assert not await bench.flusher.flush()
        bench.disk(1_000_000)
        assert await bench.flusher.flush()

    try:
        go(work())
        (batch,) = bench.drain()
        statuses = bench.spool.statuses()
    finally:
        bench.spool.close()

    assert batch.transitions == (down, up)
    assert statuses == {"a": "healthy"}


def test_late_answer_of_the_disk_is_known_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush that was cut off counts as written once the spool has been closed, and only if it was."""
    disk_is_slow, writing = threading.Event(), threading.Event()
    append = SpoolFile.append
    refusing: list[bool] = []

    def slow_append(file: SpoolFile, *arguments: Any) -> list[Batch]:
        writing.set()
        disk_is_slow.wait(WAIT_S)
        if refusing:
            raise SpoolUnavailable("disk is full")
        return append(file, *arguments)

    monkeypatch.setattr(SpoolFile, "append", slow_append)

    async def cut_off(bench: Bench) -> None:
        bench.poll(3)
        flush = asyncio.create_task(bench.flusher.flush())
        await asyncio.get_running_loop().run_in_executor(None, writing.wait, WAIT_S)
        flush.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flush
        assert not bench.flusher.finish(), "nobody knows yet"

    for folder, written in ((tmp_path / "fine", True), (tmp_path / "full", False)):
        disk_is_slow.clear()
        writing.clear()
        refusing[:] = [] if written else [True]
        bench = Bench(folder)
        try:
            go(cut_off(bench))
        finally:
            disk_is_slow.set()
            bench.spool.close()
        assert bench.flusher.finish() is written
        assert bench.flusher.waiting_rows == (0 if written else 5)


def test_fresh_spool_gets_the_names_of_counters_again(tmp_path: Path) -> None:
    """When the spool's file was replaced, the baselines in the new one can be read."""
    bench = Bench(tmp_path)

    async def work() -> None:
        bench.poll(2)
        assert await bench.flusher.flush()
        bench.spool._ask(
            lambda file: file._db.connection.executescript(
                "PRAGMA writable_schema = ON; UPDATE sqlite_master SET rootpage = 1 WHERE name = 'pending';"
                "PRAGMA schema_version = 1000;"
            )
        ).result(WAIT_S)
        for _ in range(2):
            bench.poll(2)
            assert await bench.flusher.flush()

    try:
        go(work())
        (state,) = bench.spool.baselines()
    finally:
        bench.spool.close()

    assert len(Counters.load_parts(state.keys or b"", state.values)) == 1
    assert list(tmp_path.glob("spool.sqlite.damaged-*"))
