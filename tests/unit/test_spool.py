"""
The spool, on real files: order, replay, bounds, damage, full disks, a second daemon and kill -9.
"""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from collector import spool as spool_module
from collector.buffer import Buffer, PendingBatch
from collector.config import SpoolConfig
from collector.spool import Spool, SpoolLocked
from collector.spool_content import Baseline
from collector.spool_database import SpoolDamaged, SpoolUnavailable
from storage.batch import Batch
from storage.model import Loss, MetricKey, Outcome, Transition, from_us, to_us
from tests.batches import NOON, SESSION

NOON_US = to_us(NOON)
SECOND_US = 1_000_000
WAIT_S = 20


class Clock:
    """A clock for ages that tests move."""

    def __init__(self) -> None:
        self.now_us = NOON_US

    def __call__(self) -> int:
        """Return the time, microseconds since the Unix epoch."""
        return self.now_us


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands at noon."""
    return Clock()


Opener = Callable[..., Spool]


@pytest.fixture
def open_spool(tmp_path: Path, clock: Clock) -> Iterator[Opener]:
    """Return a function that opens the one spool of the test, closing the one before."""
    opened: list[Spool] = []

    def opener(**bounds: object) -> Spool:
        for spool in opened:
            spool.close()
        opened.append(Spool(tmp_path, SpoolConfig(**bounds), clock))  # type: ignore[arg-type]  # fields of SpoolConfig
        return opened[-1]

    yield opener
    for spool in opened:
        spool.close()


def polls(k: int, agents: int = 3, samples: int = 2) -> list[PendingBatch]:
    """Return what flush number *k* took: one poll of each agent, *k* seconds after noon."""
    buffer = Buffer()
    keys = tuple(MetricKey(name=f"m{i}") for i in range(samples))
    for agent in range(agents):
        buffer.add(
            f"agent-{agent}", NOON_US + k * SECOND_US, Outcome.HEALTHY, 1, 2, 200, "", keys, [float(k)] * samples
        )
    return buffer.take(NOON_US + k * SECOND_US)


def append(spool: Spool, k: int, agents: int = 3, samples: int = 2, baselines: tuple[Baseline, ...] = ()) -> Batch:
    """Append flush number *k* and return its batch."""
    (batch,) = spool.append(polls(k, agents, samples), SESSION, baselines).result(WAIT_S)
    return batch


def drain(spool: Spool) -> list[Batch]:
    """Take and commit until nothing is pending."""
    taken: list[Batch] = []
    while (batch := spool.take(0)) is not None:
        taken.append(batch)
        spool.committed(batch)
    return taken


def on_disk(folder: Path) -> int:
    """Return the bytes of file and write-ahead log."""
    return sum(p.stat().st_size for p in folder.glob("spool.sqlite*") if not p.name.endswith("-shm"))


# ---------------------------------------------------------------- order, identity, replay


def test_numbers_are_dense_across_restarts_and_identity_stays(open_spool: Opener) -> None:
    """A spool's identity is minted with the file; sequence numbers go on where they ended, even when all is gone."""
    spool = open_spool(keep_committed=timedelta(0))
    first = append(spool, 1)
    append(spool, 2)
    drain(spool)
    identity = spool.spool_id

    again = open_spool(keep_committed=timedelta(0))

    assert again.spool_id == identity == first.spool_id
    assert append(again, 3).seq == 3


def test_newest_batch_goes_first(open_spool: Opener) -> None:
    """Live data passes the backlog: what came last is taken first, after a restart, too."""
    spool = open_spool()
    for k in (1, 2, 3):
        append(spool, k)
    newest = spool.take(0)
    assert newest is not None
    spool.committed(newest)
    spool = open_spool()
    append(spool, 4)

    assert newest.seq == 3
    assert [batch.seq for batch in drain(spool)] == [4, 2, 1]


def test_batch_is_offered_until_committed(open_spool: Opener) -> None:
    """A batch that the writer could not write comes again; a committed one does not, after a restart neither."""
    spool = open_spool()
    append(spool, 1)
    first = spool.take(0)
    second = spool.take(0)
    assert first is not None
    assert second is not None
    assert first.seq == second.seq
    spool.committed(first)
    assert spool.take(0) is None

    assert open_spool().take(0) is None


def test_what_comes_back_from_disk_is_what_went_in(open_spool: Opener) -> None:
    """A batch read from the file equals the one that was appended."""
    before = append(open_spool(), 7, agents=2, samples=3)
    after = open_spool().take(0)

    assert after is not None
    assert (after.name, after.agents, after.metrics, after.session) == (
        before.name,
        before.agents,
        before.metrics,
        before.session,
    )
    assert after.agent_samples.value.tolist() == before.agent_samples.value.tolist() == [7.0] * 6
    assert after.checks.ts_us.tolist() == before.checks.ts_us.tolist()


def test_other_server_gets_recent_batches_again(open_spool: Opener) -> None:
    """After a failover every batch that is still here is offered again, once; the same server gets none twice."""
    spool = open_spool()
    assert spool.meet_server("a/1/5") == 0
    for k in (1, 2):
        append(spool, k)
    drain(spool)
    assert spool.meet_server("a/1/5") == 0

    spool = open_spool()
    assert spool.meet_server("a/2/5") == 2
    assert [batch.seq for batch in drain(spool)] == [2, 1]
    assert spool.meet_server("a/2/5") == 0


def test_committed_batches_are_kept_for_a_while(open_spool: Opener, clock: Clock) -> None:
    """Ten minutes after the commit a failover can no longer ask for a batch: it is gone."""
    spool = open_spool(keep_committed=timedelta(minutes=10))
    append(spool, 1)
    drain(spool)
    clock.now_us += 601 * SECOND_US
    # The next two flushes let the thread look at the clock twice: once to commit, once to tidy.
    append(spool, 2)
    clock.now_us += 601 * SECOND_US
    append(spool, 3)
    spool.meet_server("a")

    assert spool.meet_server("b") == 0


# ---------------------------------------------------------------- what goes with the batches


def test_baselines_and_statuses_survive(open_spool: Opener) -> None:
    """Counters' values and the last status are there after a restart; keys are kept until others come."""
    spool = open_spool()
    batches = polls(1)
    change = Transition(agent="agent-1", due=NOON, old="unknown", new="healthy")
    buffer = Buffer()
    buffer.add_transition(change)
    batches += buffer.take(0)
    spool.append(batches, SESSION, [Baseline(agent="agent-0", keys=b"keys", values=b"1")]).result(WAIT_S)
    append(spool, 2, baselines=(Baseline(agent="agent-0", keys=None, values=b"22"),))

    spool = open_spool()
    assert spool.baselines() == [Baseline(agent="agent-0", keys=b"keys", values=b"22")]
    assert spool.statuses() == {"agent-1": "healthy"}
    spool.forget_agents(["agent-9"]).result(WAIT_S)
    assert (spool.baselines(), spool.statuses()) == ([], {})


def test_transition_of_a_dropped_batch_does_not_win_over_later_ones(open_spool: Opener) -> None:
    """What later batches have overtaken stays behind; what is still so travels, before the batch's own."""
    spool = open_spool()

    def flush(k: int, *changes: tuple[str, str, str]) -> Batch:
        buffer = Buffer()
        for name, old, new in changes:
            due_us = NOON_US + k * SECOND_US
            buffer.add(name, due_us, Outcome.HEALTHY, 1, 2, 200, "")
            buffer.add_transition(Transition(agent=name, due=from_us(due_us), old=old, new=new))
        (batch,) = spool.append(buffer.take(0), SESSION).result(WAIT_S)
        return batch

    first = flush(1, ("back", "healthy", "timeout"), ("down", "healthy", "timeout"), ("soon", "healthy", "timeout"))
    flush(2, ("back", "timeout", "healthy"))
    spool.set_aside(first, "quarantined")
    batch = flush(3, ("soon", "timeout", "healthy"))

    told = [(change.agent, change.new) for change in batch.transitions]
    assert told == [("down", "timeout"), ("soon", "timeout"), ("soon", "healthy")]
    assert spool.statuses() == {"back": "healthy", "down": "timeout", "soon": "healthy"}


def test_cache_survives_and_damage_in_it_is_noticed(open_spool: Opener, tmp_path: Path) -> None:
    """The cached agent list comes back; one with a wrong checksum does not."""
    spool = open_spool()
    spool.put("agents", b"[1]").result(WAIT_S)
    spool.put("agents", b"[2]").result(WAIT_S)
    spool = open_spool()
    assert spool.get("agents") == b"[2]"
    assert spool.get("others") is None
    spool.close()
    with sqlite3.connect(tmp_path / "spool.sqlite") as db:
        db.execute("UPDATE cache SET value = X'00'")
    db.close()

    assert open_spool().get("agents") is None


# ---------------------------------------------------------------- bounds


def test_full_spool_drops_the_oldest_and_says_whose_slots(
    open_spool: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """File and log never pass the bound; every slot is in a batch that is left or in a loss, and its number is given up."""
    bound = 4 * 1024 * 1024
    spool = open_spool(max_bytes=bound)
    largest = 0
    losses: list[Loss] = []
    with caplog.at_level(logging.WARNING):
        for k in range(1, 121):
            batch = append(spool, k, agents=50, samples=40)
            losses += batch.losses
            largest = max(largest, on_disk(tmp_path))
    left = drain(spool)
    dropped = sum(loss.n for loss in losses)

    assert bound / 2 < largest <= bound
    assert {loss.reason for loss in losses} == {"spool_full"}
    # Losses of dropped batches travel on in later ones, so each lost slot is told exactly once among what is left.
    told = sum(loss.n for batch in left for loss in batch.losses)
    assert told == 120 * 50 - sum(len(batch.checks) for batch in left) > 0
    assert dropped >= told
    given_up = [seq for _, seqs, _ in spool.abandoned() for seq in seqs]
    assert sorted(given_up + [batch.seq for batch in left]) == list(range(1, 121))
    assert all(spool_id == str(spool.spool_id) for spool_id, _, _ in spool.abandoned())
    assert "oldest batches were dropped" in caplog.text
    assert spool.stats().dropped_batches == len(given_up)


def test_committed_batches_make_room_before_pending_ones_do(open_spool: Opener, tmp_path: Path) -> None:
    """What the database has goes first, so a spool full of committed batches loses nothing."""
    bound = 4 * 1024 * 1024
    spool = open_spool(max_bytes=bound)
    for k in range(1, 121):
        batch = append(spool, k, agents=50, samples=40)
        spool.committed(batch)
        assert batch.losses == ()

    assert on_disk(tmp_path) <= bound
    assert spool.stats().dropped_batches == 0


def test_what_is_owed_counts_towards_the_bound(open_spool: Opener, tmp_path: Path) -> None:
    """A fleet whose losses are larger than its batches neither passes the bound nor fills the spool with losses."""
    bound = 4 * 1024 * 1024
    spool = open_spool(max_bytes=bound)
    largest = 0
    for k in range(1, 121):
        append(spool, k, agents=2000, samples=0)
        largest = max(largest, on_disk(tmp_path))
    left = drain(spool)

    assert largest <= bound
    assert len(left) > 5, "losses of what was dropped do not push out what is there"
    told = sum(loss.n for batch in left for loss in batch.losses)
    assert told + sum(len(batch.checks) for batch in left) == 120 * 2000


def test_batch_on_its_way_to_the_database_is_not_dropped(open_spool: Opener, clock: Clock) -> None:
    """What the writer is just writing is neither too old nor too large, or its slots would be rows and losses."""
    spool = open_spool(max_age=timedelta(hours=1), max_bytes=4 * 1024 * 1024)
    append(spool, 1, agents=50, samples=40)
    written = spool.take(0)
    assert written is not None
    clock.now_us += 3601 * SECOND_US
    for k in range(2, 122):
        append(spool, 3600 + k, agents=50, samples=40)
    spool.committed(written)
    left = drain(spool)

    told = sum(loss.n for batch in left for loss in batch.losses)
    assert told + sum(len(batch.checks) for batch in left) == 120 * 50
    assert written.seq not in {seq for _, seqs, _ in spool.abandoned() for seq in seqs}


def test_batch_that_is_offered_again_is_dropped_without_a_loss(open_spool: Opener, clock: Clock) -> None:
    """After a failover the database most likely has it: its slots are no losses, and the ledger says what it lacks."""
    spool = open_spool(max_age=timedelta(hours=1), keep_committed=timedelta(hours=2))
    spool.meet_server("one")
    append(spool, 1)
    drain(spool)
    assert spool.meet_server("another") == 1
    clock.now_us += 3601 * SECOND_US
    append(spool, 3601)
    batch = append(spool, 3602)

    assert batch.losses == ()
    assert spool.abandoned() == [(str(spool.spool_id), range(1, 2), "spool_age")]
    assert [taken.seq for taken in drain(spool)] == [3, 2]


def test_batch_that_can_never_fit_is_refused(open_spool: Opener) -> None:
    """A bound that is too small for one batch is named, with its remedy; what was there is still there."""
    spool = open_spool(max_bytes=2 * 1024 * 1024)
    append(spool, 1)

    with pytest.raises(SpoolUnavailable, match=r"raise spool\.max_bytes"):
        append(spool, 2, agents=100, samples=1000)
    assert [batch.seq for batch in drain(spool)] == [1]


def test_old_batches_are_dropped_as_losses(open_spool: Opener, clock: Clock) -> None:
    """Beyond the age bound a batch is given up; its transition is not."""
    spool = open_spool(max_age=timedelta(hours=1))
    buffer = Buffer()
    change = Transition(agent="agent-0", due=NOON, old="healthy", new="timeout")
    buffer.add("agent-0", NOON_US, Outcome.TIMEOUT, 0, 0, 0, "")
    buffer.add_transition(change)
    spool.append(buffer.take(0), SESSION).result(WAIT_S)
    clock.now_us += 3601 * SECOND_US
    # The first flush lets the thread look at the clock, the second carries what was found.
    append(spool, 3601)

    batch = append(spool, 3602)

    assert batch.losses == (Loss(agent="agent-0", from_due=NOON, to_due=NOON, n=1, reason="spool_age"),)
    assert batch.transitions == (change,)
    assert spool.abandoned() == [(str(spool.spool_id), range(1, 2), "spool_age")]
    spool.abandon_recorded(str(spool.spool_id), range(1, 2))
    assert spool.abandoned() == []


def test_file_shrinks_after_the_rush(open_spool: Opener, tmp_path: Path, clock: Clock) -> None:
    """Pages that an outage filled go back to the disk once the database has caught up."""
    spool = open_spool(keep_committed=timedelta(0))
    for k in range(1, 61):
        append(spool, k, agents=50, samples=100)
    full = on_disk(tmp_path)
    drain(spool)
    for k in range(61, 101):
        clock.now_us += 10 * SECOND_US
        spool.committed(append(spool, k))
    spool.close()

    assert on_disk(tmp_path) < full / 10


# ---------------------------------------------------------------- damage


def test_damaged_row_is_set_aside_with_its_slots(open_spool: Opener, tmp_path: Path) -> None:
    """A flipped byte in a body costs that batch and no other; its slots are losses of the next batch."""
    spool = open_spool()
    for k in (1, 2, 3):
        append(spool, k)
    spool.close()
    with sqlite3.connect(tmp_path / "spool.sqlite") as db:
        (body,) = db.execute("SELECT body FROM bodies WHERE seq = 2").fetchone()
        broken = bytearray(body)
        broken[len(broken) // 2] ^= 1
        db.execute("UPDATE bodies SET body = ? WHERE seq = 2", (broken,))
    db.close()
    spool = open_spool()

    assert [batch.seq for batch in drain(spool)] == [3, 1]
    due = from_us(NOON_US + 2 * SECOND_US)
    assert append(spool, 4).losses == tuple(
        Loss(agent=f"agent-{i}", from_due=due, to_due=due, n=1, reason="spool_corrupt") for i in range(3)
    )
    assert spool.abandoned() == [(str(spool.spool_id), range(2, 3), "spool_corrupt")]
    assert spool.stats().set_aside == 1


def test_refused_batch_is_set_aside(open_spool: Opener) -> None:
    """A batch that the database will never take leaves the queue, and is a loss."""
    spool = open_spool()
    batch = append(spool, 1, agents=1)
    spool.set_aside(batch, "quarantined")

    assert spool.take(0) is None
    assert [(loss.agent, loss.n, loss.reason) for loss in append(spool, 2).losses] == [("agent-0", 1, "quarantined")]


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_file_that_is_no_spool_is_set_aside(
    content: bytes, open_spool: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The daemon starts with a fresh file, keeps the broken one, and says so loudly."""
    (tmp_path / "spool.sqlite").write_bytes(content)
    with caplog.at_level(logging.CRITICAL):
        spool = open_spool()

    assert append(spool, 1).seq == 1
    (kept,) = (p for p in tmp_path.glob("spool.sqlite.damaged-*") if not p.name.endswith(("-wal", "-shm")))
    assert kept.read_bytes()[: len(content)] == content
    assert "fresh spool takes its place" in caplog.text


def test_file_of_another_version_is_set_aside(open_spool: Opener, tmp_path: Path) -> None:
    """A spool of a later release is not touched; it is kept under another name."""
    open_spool().close()
    with sqlite3.connect(tmp_path / "spool.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()

    assert append(open_spool(), 1).seq == 1
    assert list(tmp_path.glob("spool.sqlite.damaged-*"))


def test_file_damaged_at_run_time_is_replaced(open_spool: Opener, tmp_path: Path) -> None:
    """When the file breaks under a running daemon, a fresh one takes over and the append that met it succeeds."""
    spool = open_spool()
    before = append(spool, 1)
    identity = spool.spool_id
    other = sqlite3.connect(tmp_path / "spool.sqlite")
    other.execute("PRAGMA writable_schema = ON")
    # Points the table of pending batches at a page that is something else.
    other.execute("UPDATE sqlite_master SET rootpage = 1 WHERE name = 'pending'")
    other.execute("PRAGMA schema_version = 1000")
    other.commit()
    other.close()

    batch = append(spool, 2)

    assert spool.spool_id != identity
    assert (batch.spool_id, batch.seq) == (spool.spool_id, 1)
    assert list(tmp_path.glob("spool.sqlite.damaged-*"))
    spool.committed(before)
    assert [taken.name for taken in drain(spool)] == [batch.name]


@pytest.mark.parametrize("failure", [SpoolUnavailable("disk is full"), OSError(28, "No space left on device")])
def test_fresh_file_that_cannot_be_made_is_tried_again(
    failure: Exception, open_spool: Opener, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage that shows when the thread tidies up, on a full disk: the thread lives on, and no slot is forgotten."""
    spool = open_spool()
    append(spool, 1)
    identity = spool.spool_id
    place, name = (spool_module, "SpoolFile") if isinstance(failure, SpoolUnavailable) else (Path, "rename")

    def refuse(*arguments: object) -> None:
        raise failure

    def tidy() -> None:
        raise SpoolDamaged("malformed")

    with monkeypatch.context() as patched:
        patched.setattr(place, name, refuse)
        spool._ask(lambda file: setattr(file, "tidy", tidy)).result(WAIT_S)
        # The thread looks at the clock behind the next command.
        clock.now_us += 2 * SECOND_US
        spool._ask(lambda file: None).result(WAIT_S)
        with pytest.raises(SpoolUnavailable):
            append(spool, 2)
    batch = append(spool, 2)

    assert spool.alive
    assert spool.spool_id != identity
    assert sorted(loss.agent for loss in batch.losses) == ["agent-0", "agent-1", "agent-2"]


# ---------------------------------------------------------------- full disk


def test_full_disk_keeps_what_was_and_recovers(open_spool: Opener, tmp_path: Path) -> None:
    """A disk that refuses changes nothing in the spool, and the same batches go in once there is room."""
    spool = open_spool()
    append(spool, 1)

    def limit(pages: int) -> Callable[[object], None]:
        return lambda file: file._db.connection.execute(  # type: ignore[attr-defined]  # the file
            f"PRAGMA max_page_count = {pages}"
        )

    # SQLite itself answers "database or disk is full" at this bound, from the same place as for a full disk.
    spool._ask(limit(1)).result(WAIT_S)
    with pytest.raises(SpoolUnavailable, match=r"cannot be written: database or disk is full"):
        append(spool, 2, agents=50, samples=40)
    assert (spool.stats().batches, spool.stats().rows) == (1, 9)
    spool._ask(limit(1_000_000)).result(WAIT_S)

    assert append(spool, 2, agents=50, samples=40).seq == 2
    assert [batch.seq for batch in drain(open_spool())] == [2, 1]


# ---------------------------------------------------------------- second daemon, kill -9


def test_second_daemon_is_refused_with_pid_and_folder(open_spool: Opener, tmp_path: Path) -> None:
    """The lock names who holds it and where; it is free again after the first is closed."""
    spool = open_spool()
    with pytest.raises(SpoolLocked, match=f"spool folder {tmp_path} is in use: found process {os.getpid()}") as caught:
        Spool(tmp_path, SpoolConfig())
    assert (caught.value.pid, caught.value.path) == (os.getpid(), tmp_path)
    spool.close()

    Spool(tmp_path, SpoolConfig()).close()


APPENDER = """
import sys
from pathlib import Path
from collector.config import SpoolConfig
from collector.spool import Spool
from collector.spool_content import Baseline
from tests.batches import SESSION
from tests.unit.test_spool import polls

spool = Spool(Path(sys.argv[1]), SpoolConfig())
for k in range(1, 100_000):
    state = Baseline(agent="agent-0", keys=b"k", values=str(k).encode())
    (batch,) = spool.append(polls(k, agents=20, samples=20), SESSION, [state]).result()
    print(batch.seq, flush=True)
"""


def test_kill_in_mid_append_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Whatever was acknowledged before kill -9 is there, whole, and the counters' values are those of the last batch."""
    for turn in range(3):
        folder = tmp_path / str(turn)
        with subprocess.Popen(
            [sys.executable, "-c", APPENDER, str(folder)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": "."},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            acknowledged = [int(process.stdout.readline()) for _ in range(20 + 7 * turn)]
            process.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]
        spool = Spool(folder, SpoolConfig())
        try:
            found = {batch.seq: batch for batch in drain(spool)}
            (state,) = spool.baselines()
        finally:
            spool.close()

        assert set(acknowledged) <= set(found)
        assert sorted(found) == list(range(1, len(found) + 1))
        # One append may have been committed whose acknowledgement was never printed.
        assert len(found) - len(acknowledged) <= 1
        assert all(len(batch.agent_samples) == 400 for batch in found.values())
        assert int(state.values) == max(found)


def test_take_wakes_when_something_comes(open_spool: Opener) -> None:
    """The writer's thread sleeps in ``take`` and is woken by the next flush, not by its timeout."""
    spool = open_spool()
    appended = spool.append(polls(1), SESSION)

    batch = spool.take(WAIT_S)

    assert batch is not None
    assert batch.seq == appended.result(WAIT_S)[0].seq
