"""
How long each kind of round trip to a database may take: one table, so that no statement waits for ever.

Server-side limits (``statement_timeout``, ``lock_timeout``) are in milliseconds as PostgreSQL takes them. A peer that
vanished without a word is found by ``tcp_user_timeout``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """Limits of one kind of statement."""

    #: Whole statement, milliseconds.
    statement_ms: int
    #: Waiting for any one lock, milliseconds.
    lock_ms: int


#: Log-in, seconds: a fleet goes on spooling meanwhile, so failing fast costs nothing.
CONNECT_S = 5
#: An unacknowledged packet for this long, milliseconds, means that the peer is gone.
TCP_USER_TIMEOUT_MS = 30_000

#: One batch: 50,000 rows take 0.3 s; a disk that stalls for a minute is treated as away.
WRITE = Deadline(statement_ms=60_000, lock_ms=10_000)
#: One refresh transaction of at most 120 buckets.
REFRESH = Deadline(statement_ms=300_000, lock_ms=2_000)
#: Statistics and summaries before a refresh. Below ``deadlock_timeout`` (1 s): who waits longer for the lock of a
#: partition that autovacuum works on has the server cancel that.
PREPARE = Deadline(statement_ms=60_000, lock_ms=100)
#: Making and dropping partitions: a short wait, because whoever waits for a lock holds up those behind.
DDL = Deadline(statement_ms=60_000, lock_ms=2_000)
#: Recomputing a window from raw rows.
VERIFY = Deadline(statement_ms=1_800_000, lock_ms=2_000)
#: A report or a query of a person.
READ = Deadline(statement_ms=120_000, lock_ms=5_000)
#: An export, from its first row to its last: ten million take a minute, a slow disk at the other end some more. What it
#: reads cannot be vacuumed away, or leave SQLite's log, for as long.
EXPORT = Deadline(statement_ms=3_600_000, lock_ms=5_000)
#: Registry and schema work.
ADMIN = Deadline(statement_ms=60_000, lock_ms=10_000)
