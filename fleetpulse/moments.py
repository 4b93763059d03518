"""
Moments and windows as people write them: ``7d`` ago, ``2026-03-01``, ``2026-03-01T12:00:00+01:00``.
"""

from __future__ import annotations

from datetime import UTC, datetime

from fleetpulse.quantities import parse_duration
from storage.errors import SettingsError
from storage.model import Window


def parse_moment(text: str, now: datetime, flag: str) -> datetime:
    """
    Return the moment that *text* names: a duration before *now*, ``now``, or an ISO 8601 date or time.

    A time without a zone is UTC, as are all times that are shown.

    Raises:
        SettingsError: Neither; the message names *flag*.
    """
    text = text.strip()
    if text == "now":
        return now
    try:
        return now - parse_duration(text)
    except ValueError:
        # Not a duration: a date, or nothing.
        pass
    except OverflowError as exc:
        raise _error(text, flag) from exc
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise _error(text, flag) from exc


def parse_window(since: str, until: str, now: datetime) -> Window:
    """
    Return the window from *since* to *until*, each as in ``parse_moment``.

    Raises:
        SettingsError: One is malformed, or the window is empty.
    """
    start, end = parse_moment(since, now, "--since"), parse_moment(until, now, "--until")
    if start >= end:
        raise SettingsError(
            f"window is empty: --since {since} is {start.isoformat()}, --until {until} is {end.isoformat()}, "
            "expected --since before --until"
        )
    return Window(start, end)


def _error(text: str, flag: str) -> SettingsError:
    return SettingsError(f'{flag} is "{text}", expected a duration back from now ("7d", "90m") or a time in ISO 8601')
