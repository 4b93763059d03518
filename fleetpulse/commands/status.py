"""
``fleetpulse status``: the fleet, the collector and the rollups at a glance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from rich.text import Text as RichText

from fleetpulse.commands.options import Config, DatabaseUrl, Home, Text, settings_of
from fleetpulse.console import TextFormat, show, show_facts, write, write_json
from fleetpulse.database import opened
from fleetpulse.settings import Settings
from reports.render import duration, plain, ratio, several, status_text
from reports.run import run
from reports.table import blank
from storage.model import ROLLUPS, Window
from storage.model import Table as Series
from storage.store import Store
from storage.urls import redact

#: Agents that the table lists; the report fleet_health has all of them.
_LISTED = 15
_RECENT = timedelta(hours=1)

_SESSION = """
SELECT s.name, s.host, s.pid, s.version, s.started_at, s.last_seen_at, s.ended_at, s.observed_to, o.live
FROM observation AS o
LEFT JOIN collector_sessions AS s
    ON s.id = (SELECT n.id FROM collector_sessions AS n WHERE n.is_collector ORDER BY n.last_seen_at DESC, n.id DESC LIMIT 1)
"""
_SESSION_TYPES = {
    **dict.fromkeys(("started_at", "last_seen_at", "ended_at", "observed_to"), datetime),
    "live": bool,
}
_LOSSES = (
    "SELECT reason, CAST(SUM(n) AS bigint) AS n FROM losses WHERE recorded_at >= :since GROUP BY reason ORDER BY 1"
)
#: Why slots are lost, in words.
_WHY_LOST: Mapping[str, str] = MappingProxyType(
    {
        "below_horizon": "refused, older than raw rows are kept",
        "too_far_ahead": "refused, dated too far ahead",
        "quarantined": "refused by the database",
        "spool_full": "dropped, the spool was full",
        "spool_age": "dropped, too long in the spool",
        "spool_corrupt": "dropped, the spool was damaged",
    }
)


def status(
    form: Text = TextFormat.TABLE, config: Config = None, database_url: DatabaseUrl = None, home: Home = None
) -> None:
    """
    Show how fleet, collector and rollups are right now.
    """
    settings = settings_of(config, database_url, home)
    with opened(settings) as store:
        found = collect(store, settings, datetime.now(UTC))
    if form is TextFormat.JSON:
        write_json(found)
    else:
        _show(found)


def collect(store: Store, settings: Settings, now: datetime) -> dict[str, Any]:
    """Return what the command shows, as JSON has it."""
    window = Window(now - _RECENT, now)
    health = run(store, "fleet_health", window=window)
    agents = [dict(zip((column.name for column in health.columns), row, strict=True)) for row in health.rows]
    slots = run(store, "availability", window=window)
    counted: list[dict[str, Any]] = [
        dict(zip((column.name for column in slots.columns), row, strict=True)) for row in slots.rows
    ]
    keys = ("expected", "up", "down", "unobserved", "paused")
    url = settings.database_url()
    session = store.query(_SESSION, types=_SESSION_TYPES)
    losses = store.query(_LOSSES, {"since": now - _RECENT})
    return {
        "now": now,
        "database": {
            "server": store.server_version(),
            "url": redact(url) if url is not None else None,
            "home": None if url is not None else str(settings.home),
        },
        "collector": dict(zip(session.columns, session.rows[0], strict=True)),
        "agents": {
            "total": len(agents),
            "stale": sum(bool(each["stale"]) for each in agents),
            "by_status": dict(sorted(Counter(str(each["status"]) for each in agents).items())),
        },
        "attention": [each for each in agents if each["stale"] or each["status"] not in ("healthy", "paused")],
        "last_hour": {key: sum(each[key] for each in counted) for key in keys},
        "losses": {str(reason): n for reason, n in losses.rows},
        "rollups": [_freshness(store, table, now) for table in Series],
    }


def _freshness(store: Store, table: Series, now: datetime) -> dict[str, Any]:
    """Return how many closed buckets wait to be computed; views are exact all the same."""
    waiting = [bucket for tier in ROLLUPS for bucket in store.dirty(table, tier, now - store.grace)]
    return {"table": table.value, "waiting": len(waiting), "oldest": min(waiting, default=None)}


def _show(found: dict[str, Any]) -> None:
    now: datetime = found["now"]
    database, last = found["database"], found["last_hour"]
    place = database["url"] or f"embedded in {database['home']}"
    asked = last["up"] + last["down"]
    share = ratio(last["up"] / asked) if asked else "–"
    show_facts(
        {
            "database": f"{database['server']}, {place}",
            "collector": _collector(found["collector"], now),
            "agents": _agents(found["agents"]),
            "last hour": f"{several(last['expected'], 'slot')}: {last['up']:,} up, {last['down']:,} down, "
            f"{last['unobserved']:,} unobserved, {last['paused']:,} paused; availability {share}",
            "lost": _lost(found["losses"]),
            "rollups": _waiting([each for each in found["rollups"] if each["waiting"]], now),
        }
    )
    _show_attention(found["attention"], now)


def _agents(counts: dict[str, Any]) -> RichText:
    line = RichText(f"{counts['total']:,}")
    for name, n in counts["by_status"].items():
        line.append("  ").append_text(status_text(name)).append(f" {n:,}")
    if counts["stale"]:
        line.append("  of them ").append_text(status_text("stale")).append(f" {counts['stale']:,}")
    return line


def _lost(losses: Mapping[str, int]) -> str:
    if not losses:
        return "nothing in the last hour"
    reasons = "; ".join(f"{n:,} {_WHY_LOST.get(reason, reason)}" for reason, n in losses.items())
    return f"{several(sum(losses.values()), 'slot')} in the last hour: {reasons}"


def _waiting(tables: list[dict[str, Any]], now: datetime) -> str:
    if not tables:
        return "up to date"
    told = ", ".join(
        f"{each['table']} {several(each['waiting'], 'bucket')}, oldest "
        f"{duration((now - each['oldest']).total_seconds())} ago"
        for each in tables
    )
    return f"waiting to be computed: {told}"


def _collector(collector: dict[str, Any], now: datetime) -> str:
    if collector["name"] is None:
        return 'none has ever run: "fleetpulse run" starts one'
    about = f"{plain(collector['name'])} on {plain(collector['host'])}, pid {collector['pid']}"
    if collector["live"]:
        return f"{about}, running for {duration((now - collector['started_at']).total_seconds())}"
    if collector["ended_at"] is not None:
        return f"{about}, ended {duration((now - collector['ended_at']).total_seconds())} ago"
    return f"{about}, silent for {duration((now - collector['last_seen_at']).total_seconds())}: killed, or cut off"


def _show_attention(agents: list[dict[str, Any]], now: datetime) -> None:
    if not agents:
        return
    table = blank()
    for heading in ("agent", "status", "for", "reason"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("status", "for"))
    for each in agents[:_LISTED]:
        status_cell = status_text(each["status"])
        if each["stale"]:
            status_cell = RichText.assemble(status_text("stale"), " (was ", each["status"], ")")
        since = each["since"]
        table.add_row(
            RichText(plain(each["agent"])),
            status_cell,
            duration((now - since).total_seconds()) if since else "–",
            RichText(plain(each["reason"])),
        )
    show(table)
    if len(agents) > _LISTED:
        write(f'and {len(agents) - _LISTED:,} more: "fleetpulse report fleet_health"\n')
