"""
Moments and windows as people write them: ``7d`` ago, ``2026-03-01``, ``2026-03-01T12:00:00+01:00``.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from difflib import get_close_matches
from zoneinfo import ZoneInfo

from fleetpulse.quantities import format_duration, parse_duration
from reports.arguments import REACH
from reports.windows import zone_names
from storage.errors import SettingsError
from storage.model import Window


def parse_moment(text: str, now: datetime, flag: str, tz: tzinfo = UTC) -> datetime:
    """
    Return the moment that *text* names: a duration before *now*, ``now``, or an ISO 8601 date or time.

    A time without a zone is one of *tz*.

    Raises:
        SettingsError: Neither, or out of reach; the message names *flag*.
    """
    text = text.strip()
    if text == "now":
        return now
    try:
        return _in_reach(now - parse_duration(text), text, flag)
    except ValueError:
        # Not a duration: a date, or nothing.
        pass
    except OverflowError as exc:
        raise _error(text, flag) from exc
    try:
        moment = datetime.fromisoformat(text)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=tz)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise _error(text, flag) from exc
    return _in_reach(moment, text, flag)


def _in_reach(moment: datetime, text: str, flag: str) -> datetime:
    if not REACH.start <= moment < REACH.end:
        years = f"{REACH.start.year} to {REACH.end.year - 1}"
        raise SettingsError(f'{flag} is "{text}", expected a moment in the years {years}')
    return moment


def parse_window(
    since: str | None, until: str, now: datetime, tz: tzinfo = UTC, *, usual: timedelta = timedelta(days=1)
) -> Window:
    """
    Return the window from *since* to *until*, each as in ``parse_moment``; aware UTC.

    Args:
        since: ``None`` where nobody has said.
        usual: How far back from now the window begins then.

    Raises:
        SettingsError: One is malformed, or the window is empty.
    """
    start = now - usual if since is None else parse_moment(since, now, "--since", tz)
    end = parse_moment(until, now, "--until", tz)
    if start < end:
        return Window(start, end)
    until_is = f"--until {until} is {end.isoformat(timespec='seconds')}"
    if since is None:
        raise SettingsError(
            f"window is empty: {until_is}, without --since it begins {format_duration(usual)} ago: add --since"
        )
    since_is = f"--since {since} is {start.isoformat(timespec='seconds')}"
    raise SettingsError(f"window is empty: {since_is}, {until_is}, expected --since before --until")


def parse_zone(name: str) -> tzinfo:
    """
    Return the time zone that the IANA calls *name*.

    Raises:
        SettingsError: There is none; the message names the nearest.
    """
    if name.upper() == "UTC":
        return UTC
    if name not in zone_names():
        raise SettingsError(f'--tz is "{name}", {_near_zones(name)}')
    return ZoneInfo(name)


def _near_zones(name: str) -> str:
    known = sorted(zone_names())
    if not known:
        return "expected UTC: this machine knows no other time zone, install tzdata"
    # People know the city, and not always how it is written.
    spellings = {spelling: zone for zone in known for spelling in (zone.rpartition("/")[2].lower(), zone.lower())}
    near = get_close_matches(name.lower().replace(" ", "_"), spellings, n=5, cutoff=0.7)
    zones = list(dict.fromkeys(spellings[spelling] for spelling in near))
    if not zones:
        return 'expected a name of the IANA, such as "Europe/Berlin" or "UTC"'
    return f"did you mean {' or '.join(zones[:3])}"


def _error(text: str, flag: str) -> SettingsError:
    return SettingsError(f'{flag} is "{text}", expected a duration back from now ("7d", "90m") or a time in ISO 8601')
