"""
The spool: where samples are safe while the database is busy, slow or away.

One thread owns the file and runs what the others ask for, one thing at a time: the event loop appends and never waits
for a disk, the writer's thread takes batches and says which of them are committed. A lock beside the file keeps a
second daemon out. A file that turns out to be damaged is set aside under another name, with what can still be read
of it turned into losses, and a fresh one takes its place: the daemon goes on.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from collector.buffer import PendingBatch
from collector.config import SpoolConfig
from collector.spool_content import Baseline, SpoolStats
from collector.spool_database import SpoolDamaged, SpoolError, SpoolUnavailable
from collector.spool_file import SpoolFile
from collector.timeline import wall_us
from storage.batch import Batch
from storage.errors import BatchError
from storage.model import Loss, Session, Transition

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between looks for what is too old. Commits that no flush has carried along are written then, too.
TIDY_S = 1.0
#: Rows of fresh batches that are kept in memory, so that the writer need not read back what was just written: 6 MB.
CACHE_ROWS = 250_000


class SpoolLocked(SpoolError):
    """
    Another daemon uses the folder.

    Attributes:
        pid: Its process id, 0 where it is not known.
        path: The folder.
    """

    def __init__(self, path: Path, pid: int) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(
            f"spool folder {path} is in use: found {who}, expected none; "
            "stop that daemon, or give this one a home of its own"
        )
        self.path = path
        self.pid = pid


class _FolderLock:
    """An advisory lock on a folder, held as long as the process lives; the file names the holder."""

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder / "spool.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            said = os.pread(self._fd, 32, 0).strip()
            os.close(self._fd)
            raise SpoolLocked(folder, int(said) if said.isdigit() else 0) from exc
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


class Spool:
    """
    The spool of one collector, open and locked.

    Args:
        folder: Where the file lies; made when it is not there.
        bounds: Bytes, age, and how long committed batches stay.
        now_us: Clock for ages, microseconds since the Unix epoch.

    Raises:
        SpoolLocked: Another daemon has it.
        SpoolUnavailable: The folder or file cannot be opened or made.
    """

    def __init__(self, folder: Path, bounds: SpoolConfig, now_us: Callable[[], int] = wall_us) -> None:
        self.path = folder / "spool.sqlite"
        self._bounds = bounds
        self._now_us = now_us
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _FolderLock(folder)
        except OSError as exc:
            raise SpoolUnavailable(f"spool folder {folder} cannot be used: {exc.strerror}") from exc
        # ``None`` ends the thread.
        self._commands: queue.SimpleQueue[tuple[Callable[[SpoolFile], Any], Future[Any]] | None] = queue.SimpleQueue()
        # Guards the three below. The spool's thread writes the statistics, the writer's thread the committed ones.
        self._changed = threading.Condition()
        self._stats = SpoolStats()
        self._committed: list[int] = []
        self._closing = False
        # Only the spool's thread touches these.
        self._fresh: OrderedDict[int, Batch] = OrderedDict()
        self._fresh_rows = 0
        self._refused = False
        # Of a damaged file, until a fresh one has it; and whether the damaged one still lies where the fresh one goes.
        self._salvaged: tuple[tuple[Loss, ...], tuple[Transition, ...]] | None = None
        self._in_place = False
        self._thread = threading.Thread(target=self._run, name="fleetpulse-spool", daemon=True)
        opened: Future[SpoolFile] = Future()
        self._opened = opened
        self._thread.start()
        try:
            self._file = opened.result()
        except BaseException:
            self._thread.join()
            self._lock.release()
            raise

    # ---------------------------------------------------------------- for the event loop

    @property
    def spool_id(self) -> UUID:
        """Return the identity of the file that is in use now."""
        return self._file.spool_id

    @property
    def max_bytes(self) -> int:
        """Return the bound of file and write-ahead log."""
        return self._bounds.max_bytes

    def append(
        self, pending: Sequence[PendingBatch], session: Session, baselines: Sequence[Baseline] = ()
    ) -> Future[list[Batch]]:
        """
        Ask for batches and baselines to be written in one transaction; the result comes when they are on the disk.

        The future raises ``SpoolUnavailable`` where the disk is full or refuses: nothing was written then.
        """

        def command(file: SpoolFile) -> list[Batch]:
            settled = self._committed_so_far()
            batches = file.append(pending, session, baselines, settled)
            self._forget_committed(settled)
            for batch in batches:
                self._fresh[batch.seq] = batch
                self._fresh_rows += len(batch)
            while self._fresh_rows > CACHE_ROWS:
                self._fresh_rows -= len(self._fresh.popitem(last=False)[1])
            return batches

        return self._ask(command)

    def put(self, key: str, value: bytes) -> Future[None]:
        """Ask for *value* to be kept under *key*."""

        def command(file: SpoolFile) -> None:
            # The room that it may take must not be that of batches that the database has.
            self._write_committed(file)
            file.put(key, value)

        return self._ask(command)

    def get(self, key: str) -> bytes | None:
        """Return what was kept under *key*; ``None`` where there is nothing, or where it is damaged. Waits."""
        return self._ask(lambda file: file.get(key)).result()

    def baselines(self) -> list[Baseline]:
        """Return the last cumulative values of every agent's counters. Waits."""
        return self._ask(lambda file: file.baselines()).result()

    def statuses(self) -> dict[str, str]:
        """Return the last known status of every agent that ever changed its. Waits."""
        return self._ask(lambda file: file.statuses()).result()

    def forget_agents(self, keep: Iterable[str]) -> Future[None]:
        """Ask for baselines and statuses of agents outside *keep* to be dropped."""
        names = tuple(keep)
        return self._ask(lambda file: file.forget_agents(names))

    @property
    def alive(self) -> bool:
        """Tell whether there is anybody to answer."""
        return self._thread.is_alive()

    def stats(self) -> SpoolStats:
        """Return how full the spool was after the last change. Does not wait."""
        with self._changed:
            return self._stats

    # ---------------------------------------------------------------- for the writer

    def take(self, timeout_s: float) -> Batch | None:
        """
        Return the newest batch that the database does not have, ``None`` when there is none in time.

        The batch stays in the spool, and is returned again, until ``committed`` or ``set_aside`` is told. Batches
        that cannot be read are set aside on the way.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._waiting() > 0, timeout_s)
            if self._closing or self._waiting() <= 0:
                return None
        return self._ask(self._newest).result()

    def _waiting(self) -> int:
        return self._stats.batches - len(self._committed)

    def _newest(self, file: SpoolFile) -> Batch | None:
        while (seq := file.newest(self._committed_so_far())) is not None:
            # The database may have it from here on, whether the answer comes or not.
            file.in_flight = seq
            fresh = self._fresh.get(seq)
            if fresh is not None and fresh.spool_id == file.spool_id:
                return fresh
            try:
                return file.read(seq)
            except BatchError as exc:
                log.error("%s: set aside", exc, extra={"event": "batch_set_aside", "seq": seq})
                file.set_aside(seq, "spool_corrupt")
        return None

    def committed(self, batch: Batch) -> None:
        """Say that the database has *batch* for certain. It is written down with the next flush, or within a second."""
        with self._changed:
            if batch.spool_id == self._file.spool_id:
                self._committed.append(batch.seq)

    def set_aside(self, batch: Batch, reason: str) -> None:
        """Take *batch* out of the way, because the database will never take it; its slots become losses. Waits."""

        def command(file: SpoolFile) -> None:
            if batch.spool_id == file.spool_id:
                file.set_aside(batch.seq, reason)

        self._ask(command).result()

    def meet_server(self, identity: str) -> int:
        """
        Compare the database's *identity* with the one that committed batches went to; return how many come again.

        After a failover or a restore the database may lack what it had committed last; the ledger tells what it has.
        """

        def command(file: SpoolFile) -> int:
            self._write_committed(file)
            known = file.server_identity
            if known == identity:
                return 0
            again = file.offer_again() if known else 0
            file.remember_server(identity)
            return again

        return self._ask(command).result()

    def abandoned(self) -> list[tuple[str, range, str]]:
        """Return what the ledger has to be told: spool, sequence numbers, reason. Waits."""
        return self._ask(
            lambda file: [(str(file.spool_id), seqs, reason) for seqs, reason in file.abandoned()]
        ).result()

    def abandon_recorded(self, spool_id: str, seqs: range) -> None:
        """Say that the ledger knows these to be abandoned. Waits."""

        def command(file: SpoolFile) -> None:
            if str(file.spool_id) == spool_id:
                file.abandon_recorded(seqs)

        self._ask(command).result()

    def wake(self) -> None:
        """Let a ``take`` that waits return now."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Write down what is committed, close the file and give the lock back. Harmless twice."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        self._commands.put(None)
        self._thread.join()
        self._lock.release()

    # ---------------------------------------------------------------- the thread

    def _ask(self, command: Callable[[SpoolFile], T]) -> Future[T]:
        future: Future[T] = Future()
        if self._closing:
            raise AssertionError("BUG: the spool is closed")
        self._commands.put((command, future))
        return future

    def _run(self) -> None:
        try:
            self._file = self._open()
        except BaseException as exc:  # noqa: BLE001  # whoever opens the spool gets it
            self._opened.set_exception(exc)
            return
        self._publish()
        self._opened.set_result(self._file)
        tidied_us = self._now_us()
        while True:
            try:
                item = self._commands.get(timeout=TIDY_S)
            except queue.Empty:
                pass
            else:
                if item is None:
                    break
                self._serve(*item)
            if abs(self._now_us() - tidied_us) >= TIDY_S * 1e6:
                tidied_us = self._now_us()
                self._tidy()
            self._publish()
        self._tidy()
        # What the writer committed last is written down only now: whoever asks after the end gets the true numbers.
        self._publish()
        self._file.close()

    def _serve(self, command: Callable[[SpoolFile], Any], future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            try:
                if self._salvaged is not None:
                    raise SpoolDamaged(f"spool {self.path} was given up")
                result = command(self._file)
            except SpoolDamaged as exc:
                self._replace(exc)
                result = command(self._file)
        except BaseException as exc:  # noqa: BLE001  # whoever asked gets it
            self._publish()
            future.set_exception(exc)
        else:
            # Before the result, so that whoever waited for it sees the numbers that go with it.
            self._publish()
            future.set_result(result)

    def _tidy(self) -> None:
        try:
            try:
                if self._salvaged is not None:
                    raise SpoolDamaged(f"spool {self.path} was given up")
                self._write_committed(self._file)
                self._file.tidy()
            except SpoolDamaged as exc:
                self._replace(exc)
            self._refused = False
        except SpoolUnavailable as exc:
            if not self._refused:
                log.error("%s", exc, extra={"event": "spool_unavailable"})
            self._refused = True
        except Exception:
            log.exception("spool %s could not be tidied", self.path, extra={"event": "spool_tidy_failed"})

    def _publish(self) -> None:
        try:
            stats = self._file.stats()
        except (SpoolError, OSError, sqlite3.Error) as exc:
            # Whatever the next command is will say so, to somebody who can act on it.
            log.debug("spool statistics: %s", exc)
            return
        with self._changed:
            self._stats = stats
            self._changed.notify_all()

    def _committed_so_far(self) -> list[int]:
        with self._changed:
            return self._committed.copy()

    def _forget_committed(self, seqs: list[int]) -> None:
        """Drop numbers that are written down; only ever the first ones, because others may have come behind them."""
        if seqs:
            with self._changed:
                del self._committed[: len(seqs)]
            for seq in seqs:
                batch = self._fresh.pop(seq, None)
                self._fresh_rows -= len(batch) if batch is not None else 0

    def _write_committed(self, file: SpoolFile) -> None:
        seqs = self._committed_so_far()
        file.settle(seqs)
        self._forget_committed(seqs)

    # ---------------------------------------------------------------- opening

    def _open(self) -> SpoolFile:
        try:
            return SpoolFile(self.path, self._bounds, self._now_us)
        except SpoolDamaged as exc:
            self._move_away(exc)
            return SpoolFile(self.path, self._bounds, self._now_us)

    def _replace(self, damage: SpoolDamaged) -> None:
        """Go on with a fresh file; what the damaged one still tells of its batches becomes losses."""
        if self._salvaged is None:
            self._salvaged = self._file.salvage("spool_corrupt")
            self._in_place = True
            self._file.close()
        # From here on a failure is tried again with the next command: what was saved waits in memory until then.
        if self._in_place:
            try:
                self._move_away(damage)
            except OSError as exc:
                raise SpoolUnavailable(f"spool {self.path} cannot be set aside: {exc.strerror}") from exc
            self._in_place = False
        file = SpoolFile(self.path, self._bounds, self._now_us)
        file.owe(*self._salvaged)
        self._salvaged = None
        with self._changed:
            self._file = file
            self._committed.clear()
        self._fresh.clear()
        self._fresh_rows = 0

    def _move_away(self, damage: SpoolDamaged) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        kept = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        for suffix in ("-wal", "-shm", ""):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(kept.with_name(kept.name + suffix))
        log.critical(
            "%s: set aside as %s, a fresh spool takes its place; what it held and the database does not have is lost",
            damage,
            kept,
            extra={"event": "spool_replaced", "kept_as": str(kept)},
        )
