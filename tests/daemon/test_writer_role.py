"""
A daemon whose role may only write, and a maintainer beside it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from collector.simulator.fleet import FleetProcess
from rollups.maintenance import Maintainer
from rollups.policy import RetentionPolicy
from storage.store import Store
from tests.daemon.collector_process import CollectorProcess
from tests.daemon.conditions import eventually
from tests.roles import lent
from tests.servers import Servers


def number(store: Store, sql: str) -> int:
    """Return the one number that *sql* answers."""
    return int(str(store.query(sql).rows[0][0]))


def test_daemon_that_may_only_write(database_servers: Servers, engine_name: str, tmp_path: Path) -> None:
    """It registers, polls, writes and ends in order; what it may not do it says once, and the owner does it."""
    with lent(database_servers, engine_name) as place, place.store(place.names.reader) as reader:
        place.apply()
        with (
            FleetProcess(agents=3, faults="", log=tmp_path / "fleet.log") as fleet,
            CollectorProcess(
                tmp_path / "home",
                place.url_of(place.names.writer),
                fleet.specs(interval_s=1, timeout_s=0.5),
                tmp_path / "log",
            ) as collector,
        ):

            def events(name: str) -> list[dict[str, object]]:
                return [event for event in collector.events() if event.get("event") == name]

            eventually(lambda: events("maintenance_left"), "notice that maintenance is left to others")
            eventually(lambda: number(reader, "SELECT count(*) FROM health_checks") > 10, "checks")
            assert collector.stop() == 0
        checks = number(reader, "SELECT count(*) FROM health_checks")
        in_views = number(reader, "SELECT sum(n)::bigint FROM health_1h")
        materialised = number(reader, "SELECT count(*) FROM health_1m_mat")
        with place.store(place.names.owner) as owner:
            # Every bucket is closed by then.
            Maintainer(owner, RetentionPolicy(), refresh_s=1, now=_tomorrow).refresh()
        left = number(reader, "SELECT count(*) FROM marks")

        assert len(events("maintenance_left")) == 1
        assert [event for event in collector.events() if event["level"] in ("error", "critical")] == []
        assert number(reader, "SELECT count(*) FROM collector_sessions WHERE ended_at IS NOT NULL") == 1
        assert in_views == checks
        assert materialised == 0
        assert left == 0
        assert number(reader, "SELECT sum(n)::bigint FROM health_1d_mat") == checks
        assert place.plan() == []


def _tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=2)
