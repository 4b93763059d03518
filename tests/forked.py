"""
A program that uses a service, forks, and uses it on both sides; it says what became of that in one line of JSON.

::

    python -m tests.forked URL idle|closed|busy
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime

from storage.database import DatabaseManager
from storage.errors import FleetpulseError
from storage.models import Host
from storage.service import PersistenceService

TASKS = 5
CHILDREN = 2


def use(service: PersistenceService, name: str) -> None:
    """Write some tasks and one value."""
    for number in range(TASKS):
        service.create_task("x", workflow="w", name=f"{name}-{number}")
    service.update_agent_metrics("alpha", {"n": 1}, kind="counter")


def fork(work: Callable[[], object]) -> Callable[[], str]:
    """Do *work* in a child; return what waits for its end, and returns what it said."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)

        def wait() -> str:
            with open(reading, encoding="utf-8") as answer:
                said = answer.read()
            _, status = os.waitpid(pid, 0)
            return said if status == 0 else f"{said} (status {status})"

        return wait
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as told:
        try:
            told.write(str(work()))
        except FleetpulseError as exc:
            told.write(f"{type(exc).__name__}: {exc}")
    # Not by a short cut: what the interpreter clears away at its end must harm nobody.
    sys.exit()


def sessions(database: DatabaseManager) -> set[object]:
    """Return the sessions that a server has for this program."""
    if database.store.engine_name == "sqlite":
        return set()
    asked = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'fleetpulse'"
    return {pid for (pid,) in database.store.query(asked).rows}


def idle(database: DatabaseManager, service: PersistenceService) -> object:
    """Fork while nobody uses the database; everybody uses it at once then."""
    mine = sessions(database)
    children = [fork(lambda name=f"child{k}": use(service, name)) for k in range(CHILDREN)]  # type: ignore[misc]  # bound now
    use(service, "parent")
    said = [wait() for wait in children]
    lost = mine - sessions(database)
    use(service, "afterwards")
    return [*said, f"lost {len(lost)} of {len(mine)}"]


def closed(database: DatabaseManager, service: PersistenceService) -> object:
    """Close the parent's side and open another one while a child uses the database."""
    (began, begin), (gone_on, go_on) = os.pipe(), os.pipe()

    def work() -> None:
        use(service, "child")
        os.write(begin, b"x")
        os.read(gone_on, 1)
        use(service, "still")

    wait = fork(work)
    os.read(began, 1)
    service.close()
    database.close()
    with DatabaseManager(sys.argv[1]) as other, PersistenceService(other) as another:
        use(another, "another")
        os.write(go_on, b"x")
        return [wait()]


def busy(database: DatabaseManager, service: PersistenceService) -> object:
    """Fork while another thread is in the middle of a transaction, and holds whatever can be held."""
    held, over, recorder = threading.Event(), threading.Event(), service._made
    assert recorder is not None

    def hold() -> None:
        with ExitStack() as stack:
            session = stack.enter_context(database.session())
            session.add(Host(name="held", created_at=datetime.now(UTC)))
            session.flush()
            for lock in (service._making, recorder._turn, database._lock):
                stack.enter_context(lock)
            held.set()
            over.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    wait = fork(lambda: use(service, "child"))
    said = wait()
    over.set()
    thread.join(60)
    use(service, "parent")
    return [said]


if __name__ == "__main__":
    with DatabaseManager(sys.argv[1]) as database:
        if sys.argv[1] == "sqlite://":
            database.create_schema()
        with PersistenceService(database) as service:
            service.register_agent("alpha")
            service.create_workflow("w")
            service.update_agent_metrics("alpha", {"n": 0}, kind="counter")
            answer = {"idle": idle, "closed": closed, "busy": busy}[sys.argv[2]](database, service)
            print(json.dumps(answer))  # noqa: T201  # read by the test
