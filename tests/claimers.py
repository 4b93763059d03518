"""
Processes that claim tasks and complete them until none is left. Each notes in a file of its own what it does, so that
the database need not be believed.

::

    python -m tests.claimers URL FOLDER NUMBER LEASE_S [HOLD ...]

A process that is to hold waits for its end after some tasks: with ``work`` while it has a claimed task in its hands,
with ``commit`` when all of a completion is written and not committed. The first ones get the HOLDs, in this order.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import event

from storage.errors import LeaseLost
from storage.open import open_store
from storage.repositories import TaskRepository
from storage.work_models import Task

#: Completed before a process holds.
BEFORE_HOLD = 1
#: How long work takes, seconds: time for others to get their turn where there is one writer.
WORK_S = 0.005
#: Between two looks for a task that is not there yet, seconds.
PAUSE_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What one process says."""

    agent: str
    #: ``begun``, ``finishing``, ``done``, ``lost`` or ``holds``.
    what: str
    task: int
    attempt: int


def agent_name(number: int) -> str:
    """Return the name of the agent that a process works for."""
    return f"claimer-{number}"


def read_notes(folder: Path) -> list[Note]:
    """Return what all processes have said so far; a line that a kill has cut short is left out."""
    notes: list[Note] = []
    for file in sorted(folder.glob("*.notes")):
        for line in file.read_text().split("\n")[:-1]:
            what, task, attempt = line.split()
            notes.append(Note(agent=file.stem, what=what, task=int(task), attempt=int(attempt)))
    return notes


def work(url: str, folder: Path, number: int, lease: timedelta, hold: str) -> None:
    """Work until nothing is left."""
    agent = agent_name(number)
    notes = os.open(folder / f"{agent}.notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    store = open_store(url)
    tasks = TaskRepository(store.engine)

    def note(what: str, task: Task) -> None:
        os.write(notes, f"{what} {task.id} {task.attempts}\n".encode())

    def wait_for_the_end(task: Task) -> None:
        note("holds", task)
        signal.pause()

    completed = 0
    while True:
        task = tasks.claim(agent, lease=lease, now=datetime.now(UTC))
        if task is None:
            if not any(tasks.list(state=state, limit=1) for state in ("pending", "running")):
                break
            time.sleep(PAUSE_S)
            continue
        note("begun", task)
        holds = hold if completed == BEFORE_HOLD else ""
        if holds == "work":
            wait_for_the_end(task)
        time.sleep(WORK_S)
        note("finishing", task)
        if holds == "commit":
            event.listen(store.engine, "commit", lambda _connection, task=task: wait_for_the_end(task))
        try:
            tasks.set_state(task.id, "completed", now=datetime.now(UTC), agent=agent, lease=task.lease)
        except LeaseLost:
            note("lost", task)
        else:
            note("done", task)
            completed += 1
    store.close()


def main() -> None:
    """Start the processes, say which they are, and how each of them ended."""
    url, folder, number, lease_s, *holds = sys.argv[1:]
    children: dict[int, int] = {}
    # Copies of this one, which has imported everything and opened nothing.
    for each in range(int(number)):
        pid = os.fork()
        if pid == 0:
            work(url, Path(folder), each, timedelta(seconds=float(lease_s)), holds[each] if each < len(holds) else "")
            return
        children[pid] = each
    print(json.dumps({agent_name(each): pid for pid, each in children.items()}), flush=True)  # noqa: T201  # the answer
    ended = {}
    while children:
        pid, status = os.wait()
        ended[agent_name(children.pop(pid))] = os.waitstatus_to_exitcode(status)
    print(json.dumps(ended), flush=True)  # noqa: T201  # the answer


if __name__ == "__main__":
    main()
