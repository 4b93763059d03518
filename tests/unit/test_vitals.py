"""
The daemon's look at itself: health that follows what is wrong, figures that follow what happened.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.buffer import Buffer
from collector.config import SpoolConfig
from collector.flush import Flusher
from collector.http_server import render_health
from collector.poll import Poller
from collector.snapshot import Rate
from collector.spool import Spool
from collector.tally import Tally
from collector.vitals import LoopLag, Vitals, VitalsProbe
from collector.writer import Writer
from storage.model import Outcome, to_us
from storage.store import Store
from tests.batches import NOON, SESSION

NOON_US = to_us(NOON)


def no_store() -> Store:
    """Stand for a database that nobody asks for: the writer is not started."""
    raise AssertionError("BUG: the writer was not started")


class Bench:
    """Vitals over real parts that do not run."""

    def __init__(self, folder: Path, *, max_bytes: int = 1024**3) -> None:
        buffer, self.tally = Buffer(), Tally()
        self.observed_us = NOON_US
        self.spool = Spool(folder, SpoolConfig())
        poller = Poller(buffer, lambda: NOON_US, self.tally)
        self.flusher = Flusher(buffer, poller, self.spool, SESSION, self.tally, lambda: self.observed_us)
        self.writer = Writer(no_store, self.spool, SESSION, (), on_agents=lambda _: None, on_end=lambda: None)
        self.writer._set(state="up", rows=7)
        self.vitals = Vitals(
            tally=self.tally,
            poller=poller,
            flusher=self.flusher,
            spool=self.spool,
            spool_max_bytes=max_bytes,
            writer=self.writer,
            now_us=lambda: NOON_US,
            observed_to_us=lambda: self.observed_us,
            agents=lambda: 3,
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return vitals with all around them."""
    found = Bench(tmp_path)
    yield found
    found.spool.close()


def test_all_is_well(bench: Bench) -> None:
    """A daemon without trouble passes, and says nothing more."""
    page = render_health(bench.vitals, name="me", version="1.2")
    content = json.loads(page.body)

    assert (page.status, page.content_type) == (200, "application/health+json")
    assert (content["status"], content["serviceId"], content["releaseId"]) == ("pass", "fleetpulse/me", "1.2")
    assert [part[0]["status"] for part in content["checks"].values()] == ["pass"] * 3
    assert "output" not in content


def test_database_away_is_a_warning(bench: Bench) -> None:
    """The spool takes what comes meanwhile, so the daemon is not failing; the reason is there to read."""
    bench.writer._set(state="down", error="server closed the connection")
    content = json.loads(render_health(bench.vitals, name="me", version="1").body)

    assert (content["status"], content["output"]) == ("warn", "database")
    assert content["checks"]["database"][0]["output"] == "server closed the connection"


def test_disk_that_refuses_is_a_failure(bench: Bench) -> None:
    """Rows that are in memory alone are in danger: 503."""
    bench.flusher.refused = True
    page = render_health(bench.vitals, name="me", version="1")

    assert (page.status, json.loads(page.body)["status"]) == (503, "fail")


def test_spool_that_nobody_serves_is_a_failure(tmp_path: Path) -> None:
    """Without the spool's thread nothing reaches the disk any more, whatever the last numbers say."""
    bench = Bench(tmp_path)
    bench.spool.close()

    assert bench.vitals.checks()["spool"].status == "fail"


def test_filling_spool_is_a_warning(tmp_path: Path) -> None:
    """From four fifths of the bound on somebody should look."""
    bench = Bench(tmp_path, max_bytes=50_000)
    try:
        assert bench.vitals.health() == ("warn", "spool")
    finally:
        bench.spool.close()


def test_late_slots_are_a_warning(bench: Bench) -> None:
    """Polls that start late, or slots that are not started at all, show."""
    bench.observed_us -= 5_000_000
    assert bench.vitals.health() == ("warn", "schedule")
    bench.observed_us = NOON_US
    for _ in range(100):
        bench.tally.poll(3000.0)
    assert bench.vitals.health() == ("warn", "schedule")


def test_reading_of_the_collectors_own_agent(bench: Bench) -> None:
    """Its outcome is the health, its samples are the figures, and unchanged series are the same object."""
    bench.tally.slots[Outcome.TIMEOUT] = 4
    probe = VitalsProbe(bench.vitals)

    async def work() -> None:
        first = await probe.poll(1.0)
        second = await probe.poll(1.0)
        assert first.metrics is second.metrics
        bench.tally.rejected["not_finite"] = 2
        bench.writer._set(state="down", error="gone")
        third = await probe.poll(1.0)
        values = {(k.name, k.labels): v for k, v in zip(third.metrics, third.values, strict=True)}

        assert (first.outcome, third.outcome, third.reason) == (Outcome.HEALTHY, Outcome.DEGRADED, "database")
        assert values["fleetpulse_slots_total", (("outcome", "timeout"),)] == 4.0
        assert values["fleetpulse_rejected_samples_total", (("reason", "not_finite"),)] == 2.0
        assert values["fleetpulse_written_rows_total", ()] == 7.0
        assert values["fleetpulse_database_up", ()] == 0.0
        assert values["process_resident_memory_bytes", ()] > 1e6
        assert third.process_start == bench.vitals.started_s

    asyncio.run(work())


def test_loop_lag_sees_a_blocked_loop() -> None:
    """A loop that was held up for a tenth of a second shows at least that."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        lag = LoopLag()
        lag.start()
        blocked_until = loop.time() + 0.25
        while loop.time() < blocked_until:
            continue
        while lag.largest_ms == 0.0:
            await asyncio.sleep(0)
        lag.stop()
        assert 100.0 < lag.largest_ms < 5000.0

    asyncio.run(asyncio.wait_for(work(), 10))


def test_rate_is_that_of_the_last_readings() -> None:
    """Counts per second over the readings that are kept."""
    rate = Rate()
    assert rate.per_s(0, 100) == 0.0
    assert rate.per_s(500_000, 150) == 100.0
    for k in range(2, 40):
        last = rate.per_s(k * 500_000, 150)
    assert last == 0.0
