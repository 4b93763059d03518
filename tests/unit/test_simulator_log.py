"""Writing and reading the log of a fleet."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from collector.simulator.log import (
    FLUSH_S,
    LogError,
    LogWriter,
    Phase,
    counter_totals,
    expected_counts,
    read_log,
    read_phases,
)
from collector.simulator.values import Scrape
from storage.model import EPOCH, Outcome, Window


def unexpected(error: LogError) -> None:
    """Fail the test: nothing should have gone wrong."""
    raise AssertionError(error)


def put(
    log: LogWriter,
    agent: str = "a",
    *,
    at_us: int = 0,
    due_us: int | None = None,
    done: bool = True,
    outcome: Outcome = Outcome.HEALTHY,
    hop: int = 0,
    scrape: Scrape | None = None,
) -> None:
    """Log one request that came at *at_us* and was answered a microsecond later."""
    log.request(
        agent=agent,
        path=f"/agents/{agent}/metrics",
        due_us=due_us,
        arrived_us=at_us,
        done_us=at_us + 1 if done else None,
        fault="ok",
        outcome=outcome,
        status=200,
        size_bytes=100,
        hop=hop,
        scrape=scrape,
    )


def numbers(resets: int, served: int, requests: int) -> Scrape:
    """Make a scrape with easily told totals."""
    return Scrape(resets, served, requests, requests * 100, 0)


def test_request_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Every field comes back, with and without numbers, across runs."""

    async def write() -> None:
        log = LogWriter(tmp_path / "log", unexpected)
        log.event("start", at_us=1)
        put(log, at_us=5, due_us=4, scrape=numbers(1, 2, 30))
        log.event("stop", at_us=9)
        log.event("start", at_us=10)
        put(log, "b", at_us=11, done=False, outcome=Outcome.ERROR, hop=1)
        log.close()

    asyncio.run(write())
    first, second = read_log(tmp_path / "log")

    assert (first.run, first.agent, first.path) == (0, "a", "/agents/a/metrics")
    assert (first.due_us, first.arrived_us, first.done_us, first.slot_us) == (4, 5, 6, 4)
    assert (first.fault, first.outcome, first.status, first.size_bytes, first.hop) == (
        "ok",
        Outcome.HEALTHY,
        200,
        100,
        0,
    )
    assert (first.resets, first.served) == (1, 2)
    assert first.totals == {"requests_total": 30, "tokens_total": 3000}
    assert (second.run, second.agent, second.outcome, second.hop) == (1, "b", Outcome.ERROR, 1)
    assert (second.due_us, second.done_us, second.slot_us) == (None, None, 11)
    assert (second.resets, second.served, second.totals) == (None, None, {})


def test_lines_reach_the_file_without_being_told_to(tmp_path: Path) -> None:
    """A line is in the file within the time allowed, with nobody closing or flushing anything."""

    async def write() -> int:
        loop = asyncio.get_running_loop()
        log = LogWriter(tmp_path / "log", unexpected)
        put(log)
        written = asyncio.Event()
        # Timers run in order of their times: when this one runs, the writer's has run.
        loop.call_later(FLUSH_S * 1.2, written.set)
        await asyncio.wait_for(written.wait(), 10)
        size = (tmp_path / "log").stat().st_size
        log.close()
        return size

    assert asyncio.run(write()) > 0
    assert len(list(read_log(tmp_path / "log"))) == 1


def test_writer_appends_to_what_is_there(tmp_path: Path) -> None:
    """A second fleet adds to the log of the first."""

    async def write(agent: str) -> None:
        log = LogWriter(tmp_path / "log", unexpected)
        log.event("start", at_us=0)
        for at_us in range(1_000):
            put(log, agent, at_us=at_us)
        log.close()

    asyncio.run(write("a"))
    asyncio.run(write("b"))

    assert expected_counts(tmp_path / "log") == {("a", Outcome.HEALTHY): 1_000, ("b", Outcome.HEALTHY): 1_000}
    assert {request.run for request in read_log(tmp_path / "log")} == {0, 1}


def test_line_without_end_is_left_alone(tmp_path: Path) -> None:
    """A log that is still being written can be read."""
    path = tmp_path / "log"

    async def write() -> None:
        log = LogWriter(path, unexpected)
        put(log, at_us=1)
        put(log, at_us=2)
        log.close()

    asyncio.run(write())
    path.write_bytes(path.read_bytes()[:-5])

    assert [request.arrived_us for request in read_log(path)] == [1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{]", "line 2 is not JSON"),
        ("[1]", "line 2 is not an object: found list"),
        ('{"type":"request","agent":"a"}', "line 2 is not a request: 'path' is missing"),
        ('{"type":"phase","agent":"a"}', "line 2 is not a phase: 'fault' is missing"),
    ],
)
def test_damaged_log_is_named(tmp_path: Path, line: str, message: str) -> None:
    """A line that is none is an error that says where, and never skipped."""
    path = tmp_path / "log"
    path.write_text(f'{{"type":"start"}}\n{line}\n')
    with pytest.raises(LogError) as caught:
        (list(read_log(path)), read_phases(path))

    assert message in str(caught.value)


def test_missing_log_is_named(tmp_path: Path) -> None:
    """Files that are not there, to read or to write, are errors with the path."""
    with pytest.raises(LogError, match="cannot be read: No such file"):
        list(read_log(tmp_path / "none"))
    with pytest.raises(LogError, match="cannot be opened: No such file"):
        LogWriter(tmp_path / "none" / "log", unexpected)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_full_disk_is_told() -> None:
    """A log that cannot be written is not silently short."""
    errors: list[LogError] = []

    async def write() -> None:
        log = LogWriter(Path("/dev/full"), errors.append)
        put(log)
        log.close()

    asyncio.run(write())

    assert len(errors) == 1
    assert "fleet log /dev/full cannot be written" in str(errors[0])


def test_expected_counts_counts_polls(tmp_path: Path) -> None:
    """Redirected and repeated requests are one poll; a window goes by due time, or by arrival without one."""
    path = tmp_path / "log"

    async def write() -> None:
        log = LogWriter(path, unexpected)
        put(log, at_us=10)
        put(log, at_us=21, due_us=20, outcome=Outcome.ERROR)
        put(log, at_us=22, due_us=20, outcome=Outcome.ERROR)
        put(log, at_us=31, due_us=29, outcome=Outcome.ERROR)
        put(log, at_us=32, due_us=29, outcome=Outcome.ERROR, hop=1)
        put(log, "b", at_us=33, due_us=29)
        put(log, at_us=40, outcome=Outcome.TIMEOUT, done=False)
        log.close()

    asyncio.run(write())
    step = timedelta(microseconds=1)

    assert expected_counts(path) == {
        ("a", Outcome.HEALTHY): 1,
        ("a", Outcome.ERROR): 2,
        ("b", Outcome.HEALTHY): 1,
        ("a", Outcome.TIMEOUT): 1,
    }
    assert expected_counts(path, Window(EPOCH + 20 * step, EPOCH + 30 * step)) == {
        ("a", Outcome.ERROR): 2,
        ("b", Outcome.HEALTHY): 1,
    }


def test_counter_totals_allow_for_resets_restarts_and_order(tmp_path: Path) -> None:
    """The increase is what a reader of cumulative totals must find, whatever happened in between."""
    path = tmp_path / "log"

    async def write() -> None:
        log = LogWriter(path, unexpected)
        log.event("start", at_us=0)
        put(log, at_us=1, scrape=numbers(0, 1, 10))
        # Two at once, finished in the other order.
        put(log, at_us=2, scrape=numbers(0, 3, 45))
        put(log, at_us=2, scrape=numbers(0, 2, 25))
        put(log, at_us=3, scrape=None)
        put(log, at_us=4, scrape=numbers(1, 1, 12))
        put(log, at_us=5, scrape=numbers(1, 2, 30))
        # Never handed over: nobody can have seen it.
        put(log, at_us=6, scrape=numbers(1, 3, 47), done=False)
        put(log, "b", at_us=6, scrape=numbers(0, 1, 15))
        log.event("start", at_us=7)
        put(log, at_us=8, scrape=numbers(0, 1, 11))
        log.close()

    asyncio.run(write())
    found = counter_totals(path)

    assert found["a"].first == {"requests_total": 10, "tokens_total": 1_000}
    assert found["a"].last == {"requests_total": 11, "tokens_total": 1_100}
    assert found["a"].increase == {"requests_total": 35 + 30 + 11, "tokens_total": 7_600}
    assert found["a"].scrapes == 6
    assert found["b"].increase == {"requests_total": 0, "tokens_total": 0}


def test_phases_are_paired(tmp_path: Path) -> None:
    """The end of a phase completes its beginning; one without an end never ended."""
    path = tmp_path / "log"
    events = [
        {"type": "start"},
        {"type": "phase", "agent": "a", "fault": "refused", "from_us": 10, "to_us": None},
        {"type": "phase", "agent": "b", "fault": "refused", "from_us": 10, "to_us": None},
        {"type": "phase", "agent": "a", "fault": "refused", "from_us": 10, "to_us": 20},
        {"type": "phase", "agent": "a", "fault": "refused", "from_us": 30, "to_us": None},
    ]
    path.write_text("".join(json.dumps(event) + "\n" for event in events))

    assert read_phases(path) == [
        Phase(run=0, agent="a", fault="refused", from_us=10, to_us=20),
        Phase(run=0, agent="b", fault="refused", from_us=10, to_us=None),
        Phase(run=0, agent="a", fault="refused", from_us=30, to_us=None),
    ]
    assert list(read_log(path)) == []
