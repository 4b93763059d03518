"""
How the daemon's log lines look: text for people, JSON for machines.

Every line that matters carries ``extra={"event": …}`` and its figures as further fields; in JSON they are keys beside
the message.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TextIO

#: Attributes that every record has: whatever else a record carries came with ``extra``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """One line for people: time in UTC, level, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return the record's time in UTC, to the millisecond."""
        return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, the event and its figures."""

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as JSON."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(stream: TextIO, *, as_json: bool, level: int = logging.INFO) -> None:
    """Send every log line of the process to *stream*, and to nothing else."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # What it warns of, a connection that is lost in the middle of something, is an error for whoever uses it, and told there.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
