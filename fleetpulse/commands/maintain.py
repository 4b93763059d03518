"""
``fleetpulse maintain``: the half of the daemon's work that is the owner's.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType
from typing import Annotated

import typer

from collector.logs import configure
from fleetpulse.commands import retention
from fleetpulse.commands.options import Config, DatabaseUrl, Home, settings_of
from fleetpulse.commands.run import LogFormat, LogLevel
from fleetpulse.console import note
from fleetpulse.database import opened
from fleetpulse.quantities import format_duration
from rollups.maintenance import Maintainer

log = logging.getLogger(__name__)


def maintain(
    once: Annotated[bool, typer.Option("--once", help="Do everything that is due once, and end.")] = False,
    log_format: Annotated[
        LogFormat, typer.Option("--log-format", envvar="FLEETPULSE_LOG_FORMAT", help="Form of log lines.")
    ] = LogFormat.TEXT,
    log_level: Annotated[
        LogLevel, typer.Option("--log-level", envvar="FLEETPULSE_LOG_LEVEL", help="Least level that is logged.")
    ] = LogLevel.INFO,
    config: Config = None,
    database_url: DatabaseUrl = None,
    home: Home = None,
) -> None:
    """
    Refresh rollups, make partitions, drop what is past its time, until interrupted: for a daemon that may only write.
    """
    settings = settings_of(config, database_url, home)
    configure(sys.stderr, as_json=log_format is LogFormat.JSON, level=logging.getLevelNamesMapping()[log_level.upper()])
    # What is said of every look at the schema's revision.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    every = settings.collector.refresh_interval
    with opened(settings, check=False) as store:
        maintainer = Maintainer(store, settings.retention_policy(), refresh_s=every.total_seconds())
        if once:
            summary = maintainer.refresh()
            note(f"computed {summary.buckets} buckets, {summary.rows} rows in {summary.duration_s:.2f} s")
            result = maintainer.housekeeping()
            retention.tell(result)
            if not result.ok:
                raise typer.Exit(1)
            return
        with _signals() as end:
            log.info("maintaining, refreshes every %s", format_duration(every), extra={"event": "started"})
            maintainer.run(end)
    log.info("maintenance ended", extra={"event": "stopped"})


@contextmanager
def _signals() -> Iterator[SimpleQueue[None]]:
    """Lend a queue that gets something with SIGTERM and SIGINT."""
    queue: SimpleQueue[None] = SimpleQueue()

    def tell(_number: int, _frame: FrameType | None) -> None:
        queue.put(None)

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield queue
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
