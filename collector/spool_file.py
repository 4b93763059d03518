"""
The spool's file: batches that the database does not have for certain yet, and what must agree with them.

A SQLite database in WAL mode with ``synchronous=FULL`` (``NORMAL`` does not sync every commit), so that what
``append`` returned is on the disk. One connection, one thread; ``collector.spool`` gives it both.

What the tables hold:

============  =====================================================================================================
meta          identity of the file, last sequence number, identity of the database's server
cache         what the daemon needs to start without its database: the agent list
agents        name, last known status, names of the counters
baselines     last cumulative values of an agent's counters, written in the transaction of the batch that used them
batches       one row per batch: size and age
bodies        the batch itself, encoded; before it, so that dropping it needs no look inside, whose slots it holds
pending       batches to be written, those of ``again`` once more; one in neither this nor ``settled`` does not exist
settled       batches that the database has committed, kept for a while in case a failover takes them back
owed          losses and transitions of dropped batches; the next batch carries them
abandoned     sequence numbers that will never come, until the ledger knows
set_aside     bodies that could not be read or written, for a person to look at
============  =====================================================================================================

Invariants: every sequence number ends settled or abandoned. Bytes of file and write-ahead log stay below the bound:
room is made before a batch goes in, from what costs nothing (committed batches) to what costs data (the oldest
pending ones, whose slots then are losses).
"""

from __future__ import annotations

import logging
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

from collector.buffer import PendingBatch
from collector.config import SpoolConfig
from collector.spool_content import (
    OVERHEAD_BYTES,
    Baseline,
    SpoolStats,
    last_transitions,
    merge_losses,
    pack_extra,
    pack_slots,
    size_estimate,
    unpack_extra,
    unpack_slots,
)
from collector.spool_database import SpoolDamaged, SpoolDatabase, SpoolError, SpoolUnavailable, translated
from collector.spool_states import AgentStates
from storage.batch import Batch, decode, encode
from storage.errors import BatchError
from storage.model import Loss, Session, Transition

log = logging.getLogger(__name__)

#: Batches deleted in one go: keeps each transaction below some 10 ms.
CHUNK = 200
#: Part of the bound that dropped batches may owe before it is put together: apart it takes as much room as they did.
MERGE_PART = 32
#: Set-aside bodies that are kept; more of them say nothing that these do not.
SET_ASIDE = 100


class SpoolFile:
    """
    One spool file, open.

    Args:
        path: The file; made when it is not there.
        bounds: Bytes, age, and how long committed batches stay.
        now_us: Clock for ages, microseconds since the Unix epoch.

    Raises:
        SpoolDamaged: The file is there and is no spool, or not of this version.
        SpoolUnavailable: It cannot be opened or made.
    """

    def __init__(self, path: Path, bounds: SpoolConfig, now_us: Callable[[], int]) -> None:
        self.path = path
        self._bounds = bounds
        self._now_us = now_us
        self._dropped_batches = self._dropped_rows = self._set_aside = 0
        #: Batch that may be on its way to the database: neither age nor size drops it, or its slots might count twice.
        self.in_flight: int | None = None
        self._db = SpoolDatabase(path, bounds.max_bytes)
        try:
            with translated(path):
                self._load()
        except BaseException:
            self._db.close()
            raise

    def _load(self) -> None:
        if not self._db.meta("spool_id"):
            with self._db.transaction():
                self._db.put_meta("spool_id", str(uuid4()))
                self._db.put_meta("last_seq", "0")
        try:
            self.spool_id = UUID(self._db.meta("spool_id"))
            self._last_seq = int(self._db.meta("last_seq"))
        except ValueError as exc:
            raise SpoolDamaged(f"spool {self.path} has lost its identity: {exc}") from exc
        self._states = AgentStates(self._db.connection)
        # Reads every page of the small tables once: what is broken there shows now and not in the middle of a flush.
        for table in ("baselines", "settled", "owed", "abandoned"):
            self._execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608  # names from this line
        self._batches, self._bytes, self._rows = self._execute(
            "SELECT count(*), coalesce(sum(size_bytes), 0), coalesce(sum(n_rows), 0)"
            " FROM pending JOIN batches USING (seq)"
        ).fetchone()

    def close(self) -> None:
        """Close the file; its write-ahead log is copied back and removed."""
        self._db.close()

    def _execute(self, statement: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        return self._db.connection.execute(statement, parameters)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Run a transaction; give the counts of this object back as they were when it fails."""
        before = (
            self._batches, self._bytes, self._rows, self._last_seq,
            self._dropped_batches, self._dropped_rows, self._set_aside,
        )  # fmt: skip
        try:
            with translated(self.path), self._db.transaction():
                yield
        except BaseException:
            (
                self._batches, self._bytes, self._rows, self._last_seq,
                self._dropped_batches, self._dropped_rows, self._set_aside,
            ) = before  # fmt: skip
            with translated(self.path):
                self._states.reload()
            raise

    # ---------------------------------------------------------------- batches

    def append(
        self,
        pending: Sequence[PendingBatch],
        session: Session,
        baselines: Iterable[Baseline] = (),
        settled: Sequence[int] = (),
    ) -> list[Batch]:
        """
        Write batches, and the counters' values that go with them, in one transaction; return them numbered.

        When this returns, all of it is on the disk. Room is made first; what had to be dropped for it, and what was
        owed from before, travels in the first batch.

        Args:
            settled: Batches that the database has committed; noted on the way, for it costs no sync of its own.

        Raises:
            SpoolUnavailable: Nothing was written.
        """
        if not pending:
            return []
        states = list(baselines)
        batches: list[Batch] = []
        need = size_estimate(pending, states)
        if not self._db.fits(need + 2 * self._owed_bytes()):
            # What the database has makes room as such, not as a loss.
            self.settle(settled)
        self._make_room(need)
        with self._changing():
            self._settle(settled)
            losses, transitions = self._collect_owed()
            for position, each in enumerate(pending):
                owed = (losses, transitions) if position == 0 else ()
                batch = each.numbered(self.spool_id, self._last_seq + 1, session, *owed)
                self._insert(batch)
                batches.append(batch)
            self._db.put_meta("last_seq", str(self._last_seq))
            self._states.save_baselines(states)
            # What is owed is older than what was saved with the batches since; see ``_collect_owed``.
            self._states.save_statuses(transitions)
            for each in pending:
                self._states.save_statuses(each.transitions)
        return batches

    def _insert(self, batch: Batch) -> None:
        body = encode(batch)
        slots = pack_slots(batch.agents, batch.checks, self._states.number)
        extra = pack_extra(batch.losses, batch.transitions)
        crc = zlib.crc32(extra.encode(), zlib.crc32(slots))
        size, rows = len(body) + len(slots) + len(extra), len(batch)
        self._execute(
            "INSERT INTO bodies (seq, crc, extra, slots, body) VALUES (?, ?, ?, ?, ?)",
            (batch.seq, crc, extra, slots, body),
        )
        self._execute(
            "INSERT INTO batches (seq, created_us, size_bytes, n_rows) VALUES (?, ?, ?, ?)",
            (batch.seq, self._now_us(), size, rows),
        )
        self._execute("INSERT INTO pending (seq) VALUES (?)", (batch.seq,))
        self._last_seq = batch.seq
        self._batches += 1
        self._bytes += size
        self._rows += rows

    def newest(self, but_not: Sequence[int] = ()) -> int | None:
        """Return the newest pending sequence number that is not among *but_not*: live data goes before old."""
        with translated(self.path):
            rows = self._execute("SELECT seq FROM pending ORDER BY seq DESC LIMIT ?", (len(but_not) + 1,)).fetchall()
        return next((seq for (seq,) in rows if seq not in but_not), None)

    def read(self, seq: int) -> Batch:
        """
        Return a batch.

        Raises:
            BatchError: Its body is damaged or gone: set it aside.
        """
        try:
            with translated(self.path):
                row = self._execute("SELECT body FROM bodies WHERE seq = ?", (seq,)).fetchone()
        except SpoolDamaged as exc:
            raise BatchError(str(exc)) from exc
        if row is None:
            raise BatchError(f"spool {self.path} has no body for batch {seq}")
        batch = decode(row[0])
        if (batch.spool_id, batch.seq) != (self.spool_id, seq):
            raise BatchError(f"spool {self.path} has batch {batch.name} in the place of {self.spool_id}/{seq}")
        return batch

    def settle(self, seqs: Sequence[int]) -> None:
        """Record that the database has committed these batches."""
        if not seqs:
            return
        with self._changing():
            self._settle(seqs)

    def _settle(self, seqs: Sequence[int]) -> None:
        for seq in seqs:
            if seq == self.in_flight:
                self.in_flight = None
            if self._leave_pending(seq):
                self._execute("INSERT INTO settled (seq, settled_us) VALUES (?, ?)", (seq, self._now_us()))

    def offer_again(self) -> int:
        """Make every committed batch that is still here pending again; return how many."""
        with self._changing():
            n, size, rows = self._execute(
                "SELECT count(*), coalesce(sum(size_bytes), 0), coalesce(sum(n_rows), 0)"
                " FROM settled JOIN batches USING (seq)"
            ).fetchone()
            self._execute("INSERT INTO pending (seq, again) SELECT seq, 1 FROM settled")
            self._execute("DELETE FROM settled")
            self._batches += n
            self._bytes += size
            self._rows += rows
        return int(n)

    def set_aside(self, seq: int, reason: str) -> None:
        """Take a batch that cannot be read or written out of the way; its slots become losses."""
        with self._changing():
            self._owe(seq, reason)
            self._leave_pending(seq)
            self._execute(
                "INSERT OR REPLACE INTO set_aside (seq, reason, body) SELECT seq, ?, body FROM bodies WHERE seq = ?",
                (reason, seq),
            )
            self._execute(
                "DELETE FROM set_aside WHERE seq NOT IN (SELECT seq FROM set_aside ORDER BY seq DESC LIMIT ?)",
                (SET_ASIDE,),
            )
            self._delete([seq])
            self._set_aside += 1

    def tidy(self) -> None:
        """Drop what is too old, forget what was committed long enough ago, give free pages back to the disk."""
        now = self._now_us()
        keep_us = int(self._bounds.keep_committed.total_seconds() * 1e6)
        age_us = int(self._bounds.max_age.total_seconds() * 1e6)
        with self._changing():
            rows = self._execute(
                "SELECT seq FROM settled WHERE settled_us < ? ORDER BY settled_us LIMIT ?", (now - keep_us, CHUNK)
            ).fetchall()
            self._delete([seq for (seq,) in rows])
            # Numbers ascend with time, so the oldest are looked at and not all of them.
            rows = self._execute(
                "SELECT seq, created_us FROM pending JOIN batches USING (seq) ORDER BY seq LIMIT ?", (CHUNK,)
            ).fetchall()
            old = [seq for seq, created_us in rows if created_us < now - age_us]
            if old:
                self._drop(old, "spool_age")
                self._merge_owed()
        with translated(self.path):
            pages, free = self._db.pages()
        # Half of the file stays free for the next rush; giving pages back moves others, which costs writes.
        if free > max(CHUNK, pages // 2):
            self._db.shrink()

    def salvage(self, reason: str) -> tuple[tuple[Loss, ...], tuple[Transition, ...]]:
        """Return what can still be read of what pending batches held; for a file that is about to be given up."""
        losses: list[Loss] = []
        transitions: list[Transition] = []
        unread = 0
        try:
            with translated(self.path):
                owed = [unpack_extra(extra) for (extra,) in self._execute("SELECT extra FROM owed ORDER BY id")]
                seqs = [seq for (seq,) in self._execute("SELECT seq FROM pending ORDER BY seq")]
        except SpoolError:
            owed, seqs, unread = [], [], self._batches
        for seq in seqs:
            try:
                with translated(self.path):
                    owed.append(self._content(seq, reason))
            except SpoolError:
                unread += 1
        for found in owed:
            losses += found[0]
            transitions += found[1]
        log.error(
            "spool %s is given up: %d of its pending batches are losses now, of %d nothing could be read",
            self.path,
            len(seqs) - unread if seqs else 0,
            unread,
            extra={"event": "spool_given_up", "batches": len(seqs), "unread": unread},
        )
        return merge_losses(losses), last_transitions(transitions)

    def owe(self, losses: Iterable[Loss], transitions: Iterable[Transition]) -> None:
        """Note losses and transitions that the next batch shall carry."""
        extra = pack_extra(losses, transitions)
        if extra:
            with self._changing():
                self._execute("INSERT INTO owed (extra) VALUES (?)", (extra,))

    @property
    def server_identity(self) -> str:
        """Return the identity of the database that the settled batches are in; empty before there was one."""
        with translated(self.path):
            return self._db.meta("server_identity")

    def remember_server(self, identity: str) -> None:
        """Note the identity of the database that batches are written to from now on."""
        with self._changing():
            self._db.put_meta("server_identity", identity)

    # ---------------------------------------------------------------- room

    def _make_room(self, need_bytes: int) -> None:
        """
        Delete, drop and shrink until *need_bytes* more fit below the bound; in transactions of its own.

        Raises:
            SpoolUnavailable: They never will.
        """
        # What is owed goes into the next batch, and is in the file already.
        need = need_bytes + 2 * self._owed_bytes()
        if self._db.fits(need):
            return
        # Some more than is needed, so that a spool that is full does this once in many appends.
        more = self._bounds.max_bytes // 32
        if 2 * need_bytes + OVERHEAD_BYTES > self._bounds.max_bytes:
            raise SpoolUnavailable(
                f"spool {self.path} can never hold {need_bytes} bytes twice, in file and log: "
                f"found a bound of {self._bounds.max_bytes} bytes, raise spool.max_bytes"
            )
        self._db.checkpoint()
        dropped = 0
        with self._changing():
            self._merge_owed()
            need = need_bytes + 2 * self._owed_bytes()
            self._give_up_copies(need + more)
            while found := self._drop_oldest(need + more):
                dropped += found
                self._merge_owed()
                need = need_bytes + 2 * self._owed_bytes()
        self._db.checkpoint()
        if dropped:
            log.warning(
                "spool %s is full: %d of the oldest batches were dropped and recorded as losses",
                self.path,
                dropped,
                extra={"event": "spool_dropped", "batches": dropped, "reason": "spool_full"},
            )
        # The file may be larger than what is left of the bound beside its log: that takes giving pages back.
        while not self._db.fits(need):
            before = self._db.pages()
            self._db.shrink()
            self._db.checkpoint()
            if self._db.pages() == before:
                raise SpoolUnavailable(
                    f"spool {self.path} has no room for {need} bytes: "
                    f"found a bound of {self._bounds.max_bytes} bytes, raise spool.max_bytes"
                )

    def _drop_oldest(self, wanted: int) -> int:
        """Drop pending batches until there is room, some at a time; return how many."""
        dropped = owed = 0
        while owed <= self._bounds.max_bytes // MERGE_PART:
            if self._db.has_room(wanted):
                return dropped
            (oldest,) = self._execute("SELECT min(seq) FROM pending WHERE seq IS NOT ?", (self.in_flight,)).fetchone()
            if oldest is None:
                return dropped
            owed += self._drop([oldest], "spool_full")
            dropped += 1
        return dropped

    def _give_up_copies(self, wanted: int) -> None:
        """Delete what the database has already, and what nobody can use, until there is room."""
        for select in (
            "SELECT seq FROM settled ORDER BY seq LIMIT ?",
            "SELECT seq FROM set_aside ORDER BY seq LIMIT ?",
        ):
            while not self._db.has_room(wanted):
                seqs = [seq for (seq,) in self._execute(select, (CHUNK,)).fetchall()]
                if not seqs:
                    break
                self._delete(seqs)
                self._db.connection.executemany("DELETE FROM set_aside WHERE seq = ?", [(seq,) for seq in seqs])

    def _leave_pending(self, seq: int) -> bool:
        """Take *seq* out of the pending ones; tell whether it was among them."""
        if not self._execute("DELETE FROM pending WHERE seq = ?", (seq,)).rowcount:
            return False
        size, rows = self._execute("SELECT size_bytes, n_rows FROM batches WHERE seq = ?", (seq,)).fetchone()
        self._batches -= 1
        self._bytes -= size
        self._rows -= rows
        return True

    def _delete(self, seqs: Sequence[int]) -> None:
        for table in ("bodies", "batches", "settled"):
            self._db.connection.executemany(
                f"DELETE FROM {table} WHERE seq = ?",  # noqa: S608  # names from this line
                [(seq,) for seq in seqs],
            )

    def _drop(self, seqs: Sequence[int], reason: str) -> int:
        """Give up pending batches: what they held is owed as losses; return the bytes of those."""
        owed = 0
        for seq in seqs:
            if seq == self.in_flight:
                continue
            n_rows, again = self._execute(
                "SELECT n_rows, again FROM pending JOIN batches USING (seq) WHERE seq = ?", (seq,)
            ).fetchone()
            if again:
                # The database had it, and most likely has: its slots as losses would count twice. Where it lacks them
                # after all, the ledger says so.
                self._abandon(seq, reason)
            else:
                owed += self._owe(seq, reason)
                self._dropped_batches += 1
                self._dropped_rows += n_rows
            self._leave_pending(seq)
            self._delete([seq])
        return owed

    # ---------------------------------------------------------------- losses

    def _owe(self, seq: int, reason: str) -> int:
        """
        Note what a batch that will never be written held: its slots as losses, its transitions as they are.

        Returns:
            The bytes of the note.
        """
        extra = pack_extra(*self._content(seq, reason))
        if extra:
            self._execute("INSERT INTO owed (extra) VALUES (?)", (extra,))
        self._abandon(seq, reason)
        return len(extra)

    def _abandon(self, seq: int, reason: str) -> None:
        grown = self._execute("UPDATE abandoned SET last = ? WHERE last = ? AND reason = ?", (seq, seq - 1, reason))
        if not grown.rowcount:
            self._execute("INSERT INTO abandoned (first, last, reason) VALUES (?, ?, ?)", (seq, seq, reason))

    def _content(self, seq: int, reason: str) -> tuple[list[Loss], list[Transition]]:
        row = self._execute("SELECT crc, extra, slots FROM bodies WHERE seq = ?", (seq,)).fetchone()
        if row is None:
            return [], []
        crc, extra, slots = row
        if zlib.crc32(str(extra).encode(), zlib.crc32(slots)) != crc:
            log.error(
                "spool %s batch %d is damaged beyond its body: which slots it held is not known",
                self.path,
                seq,
                extra={"event": "spool_slots_unknown", "seq": seq},
            )
            return [], []
        losses, transitions = unpack_extra(extra)
        return [*losses, *unpack_slots(slots, self._states.names, reason)], transitions

    def _owed_bytes(self) -> int:
        with translated(self.path):
            return int(self._execute("SELECT coalesce(sum(length(extra)), 0) FROM owed").fetchone()[0])

    def _collect_owed(self) -> tuple[tuple[Loss, ...], tuple[Transition, ...]]:
        """
        Return and forget what is owed, one loss per agent and reason, and each agent's last transition.

        Within a spool the later batch decides what an agent's status is. So a transition that later batches have
        overtaken must not travel in one that is later still: it would win over them.
        """
        rows = self._execute("SELECT extra FROM owed ORDER BY id").fetchall()
        if not rows:
            return (), ()
        content = [unpack_extra(extra) for (extra,) in rows]
        self._execute("DELETE FROM owed")
        return (
            merge_losses(loss for losses, _ in content for loss in losses),
            self._not_overtaken(last_transitions(change for _, transitions in content for change in transitions)),
        )

    def _merge_owed(self) -> None:
        extra = pack_extra(*self._collect_owed())
        if extra:
            self._execute("INSERT INTO owed (extra) VALUES (?)", (extra,))

    def _not_overtaken(self, transitions: tuple[Transition, ...]) -> tuple[Transition, ...]:
        if not transitions:
            return ()
        known = self._states.statuses()
        return tuple(change for change in transitions if known.get(change.agent, change.new) == change.new)

    def abandoned(self) -> list[tuple[range, str]]:
        """Return what the ledger has to be told: sequence numbers without a gap, reason."""
        with translated(self.path):
            rows = self._execute("SELECT first, last, reason FROM abandoned ORDER BY first").fetchall()
        return [(range(first, last + 1), reason) for first, last, reason in rows]

    def abandon_recorded(self, seqs: range) -> None:
        """Forget sequence numbers that the ledger knows to be abandoned; the range may have grown since."""
        with self._changing():
            self._execute("DELETE FROM abandoned WHERE first = ? AND last < ?", (seqs.start, seqs.stop))
            self._execute("UPDATE OR REPLACE abandoned SET first = ? WHERE first = ?", (seqs.stop, seqs.start))

    # ---------------------------------------------------------------- what goes with the batches

    def baselines(self) -> list[Baseline]:
        """Return the baselines of every agent whose record is whole; damaged ones are logged and left out."""
        with translated(self.path):
            return self._states.baselines()

    def statuses(self) -> dict[str, str]:
        """Return the last known status of every agent that ever changed its."""
        with translated(self.path):
            return self._states.statuses()

    def forget_agents(self, keep: Iterable[str]) -> None:
        """Drop the baselines and statuses of agents that are not in *keep*."""
        with self._changing():
            self._states.forget(keep)

    def put(self, key: str, value: bytes) -> None:
        """Keep *value* under *key*."""
        self._make_room(len(value) + OVERHEAD_BYTES)
        with self._changing():
            self._execute(
                "INSERT INTO cache (key, crc, value) VALUES (?, ?, ?)"
                " ON CONFLICT (key) DO UPDATE SET crc = excluded.crc, value = excluded.value",
                (key, zlib.crc32(value), value),
            )

    def get(self, key: str) -> bytes | None:
        """Return what was kept under *key*; ``None`` where there is nothing, or where it is damaged."""
        with translated(self.path):
            row = self._execute("SELECT crc, value FROM cache WHERE key = ?", (key,)).fetchone()
        if row is None or zlib.crc32(row[1]) != row[0]:
            return None
        return bytes(row[1])

    def stats(self) -> SpoolStats:
        """Return how full the spool is."""
        with translated(self.path):
            row = self._execute(
                "SELECT created_us FROM pending JOIN batches USING (seq) ORDER BY seq LIMIT 1"
            ).fetchone()
            abandoned = bool(self._execute("SELECT EXISTS (SELECT * FROM abandoned)").fetchone()[0])
            size = self._db.size_bytes()
        return SpoolStats(
            batches=self._batches,
            pending_bytes=self._bytes,
            rows=self._rows,
            oldest_us=row[0] if row else 0,
            size_bytes=size,
            abandoned=abandoned,
            dropped_batches=self._dropped_batches,
            dropped_rows=self._dropped_rows,
            set_aside=self._set_aside,
        )
