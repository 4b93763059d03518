"""
What the spool keeps per agent beside the batches: a number, the last status, the baselines of its counters.
"""

from __future__ import annotations

import logging
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence

from collector.spool_content import Baseline
from storage.model import Transition

log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE agents (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, status TEXT, crc INTEGER, keys BLOB);
CREATE TABLE baselines (id INTEGER PRIMARY KEY, crc INTEGER NOT NULL, body BLOB NOT NULL);
"""


class AgentStates:
    """
    The per-agent tables of an open spool file; transactions are the caller's.

    Agents get their numbers in the order in which they are first polled, so those of one flush lie on neighbouring
    pages, and a flush rewrites a few pages of baselines instead of all.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._numbers: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self.reload()

    def reload(self) -> None:
        """Read the numbers anew: after a transaction that was rolled back."""
        self._numbers = dict(self._db.execute("SELECT name, id FROM agents"))
        self._names = {number: name for name, number in self._numbers.items()}

    @property
    def names(self) -> Mapping[int, str]:
        """Return every agent that the file has ever met, by number."""
        return self._names

    def number(self, agent: str) -> int:
        """Return the number of *agent*, a new one at first sight."""
        number = self._numbers.get(agent)
        if number is None:
            number = int(self._db.execute("INSERT INTO agents (name) VALUES (?) RETURNING id", (agent,)).fetchone()[0])
            self._numbers[agent] = number
            self._names[number] = agent
        return number

    def save_baselines(self, states: Sequence[Baseline]) -> None:
        """Replace the baselines of the agents in *states*."""
        self._db.executemany(
            "UPDATE agents SET keys = ?, crc = ? WHERE id = ?",
            [(s.keys, zlib.crc32(s.keys), self.number(s.agent)) for s in states if s.keys is not None],
        )
        self._db.executemany(
            "INSERT INTO baselines (id, crc, body) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET crc = excluded.crc, body = excluded.body",
            [(self.number(s.agent), zlib.crc32(s.values), s.values) for s in states],
        )

    def save_statuses(self, transitions: Iterable[Transition]) -> None:
        """Keep what *transitions* lead to."""
        self._db.executemany(
            "UPDATE agents SET status = ? WHERE id = ?", [(t.new, self.number(t.agent)) for t in transitions]
        )

    def baselines(self) -> list[Baseline]:
        """Return the baselines of every agent whose record is whole; damaged ones are logged and left out."""
        rows = self._db.execute(
            "SELECT a.name, a.crc, a.keys, b.crc, b.body FROM baselines AS b JOIN agents AS a USING (id)"
            " WHERE a.keys IS NOT NULL"
        ).fetchall()
        found: list[Baseline] = []
        for name, keys_crc, keys, crc, body in rows:
            if zlib.crc32(keys) == keys_crc and zlib.crc32(body) == crc:
                found.append(Baseline(agent=name, keys=keys, values=body))
            else:
                log.error(
                    "counters of agent %s are damaged in the spool: the increase up to its next poll is not counted",
                    name,
                    extra={"event": "baseline_damaged", "agent": name},
                )
        return found

    def statuses(self) -> dict[str, str]:
        """Return the last known status of every agent that ever changed its."""
        return dict(self._db.execute("SELECT name, status FROM agents WHERE status IS NOT NULL"))

    def forget(self, keep: Iterable[str]) -> None:
        """Drop the baselines and statuses of agents that are not in *keep*; their rows stay, batches refer to them."""
        kept = {self._numbers[name] for name in keep if name in self._numbers}
        gone = [(number,) for number in self._names if number not in kept]
        self._db.executemany("UPDATE agents SET status = NULL, crc = NULL, keys = NULL WHERE id = ?", gone)
        self._db.executemany("DELETE FROM baselines WHERE id = ?", gone)
