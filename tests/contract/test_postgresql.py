"""
What is of the ``postgresql`` engine alone: its partitions, and the statement that refreshes them.
"""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from rollups.retention import apply, plan
from storage.model import Table, Tier
from storage.store import Capability, Store
from tests.batches import NOON, Spool, every
from tests.contract.test_retention import NOW, POLICY, fill

LATER = NOON + timedelta(days=40)

on_postgresql = pytest.mark.needs(Capability.EXACT_VIEWS, Capability.SEVERAL_WRITERS)


@on_postgresql
def test_refresh_out_of_time_goes_on_with_less(store: Store) -> None:
    """A refresh that exceeds its deadline is tried with fewer buckets, so that a backlog gets smaller at all."""
    store.write(Spool().batch(samples=[("a", "m", at, 1.0) for at in every(NOON, 60, 100)]))
    with store.engine.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION out_of_time() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " IF (SELECT count(DISTINCT bucket) FROM fresh) > 10 THEN"
                " RAISE EXCEPTION 'canceling statement due to statement timeout' USING ERRCODE = '57014';"
                " END IF; RETURN NULL; END $$"
            )
        )
        connection.execute(
            text(
                "CREATE TRIGGER out_of_time AFTER INSERT ON agent_metrics_1m_mat REFERENCING NEW TABLE AS fresh"
                " FOR EACH STATEMENT EXECUTE FUNCTION out_of_time()"
            )
        )
    result = store.refresh(Table.AGENT, Tier.M1, closed_before=LATER, limit=100)

    assert 1 <= result.buckets <= 10


@on_postgresql
def test_refresh_does_not_wait_for_a_vacuum(store: Store) -> None:
    """A leaf that somebody vacuums or indexes is refreshed all the same; only its indexes are not brought up to date."""
    store.write(Spool().batch(samples=[("a", "m", NOON, 1.0)]))
    with store.engine.begin() as vacuum:
        vacuum.execute(text(f"LOCK TABLE agent_metrics_{NOON:%Y%m%d} IN SHARE UPDATE EXCLUSIVE MODE"))
        result = store.refresh(Table.AGENT, Tier.M1, closed_before=LATER)

    assert (result.buckets, result.rows) == (1, 1)


@on_postgresql
def test_a_backlog_does_not_slow_down_recent_questions(store: Store) -> None:
    """A condition on the bucket leaves out marked buckets before they are computed."""
    store.write(Spool().batch(samples=[("a", "m", at, 1.0) for at in every(NOON, 60, 300)]))
    with store.engine.connect() as connection:
        plan = connection.execute(
            text("EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM agent_metrics_1m WHERE bucket >= :since"),
            {"since": NOON + timedelta(minutes=297)},
        ).scalar_one()
    loops: list[float] = []
    nodes = [plan[0]["Plan"]]
    while nodes:
        node = nodes.pop()
        loops.append(node["Actual Loops"])
        nodes.extend(node.get("Plans", []))

    assert max(loops) == 3


@on_postgresql
def test_detached_partition_is_found_and_dropped(store: Store) -> None:
    """What a crash left between detaching and dropping is in the next plan, and goes with the next run."""
    fill(store)
    apply(store, POLICY, NOW - timedelta(days=1))
    boundary = (NOW - timedelta(days=3)).replace(hour=0)
    store.close_below(Table.AGENT, Tier.RAW, boundary)
    leaf = f"agent_metrics_{boundary - timedelta(days=1):%Y%m%d}"
    with store.engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE agent_metrics DETACH PARTITION {leaf}"))
        connection.execute(
            text("UPDATE horizons SET dropped_before = :at WHERE tbl = 2 AND tier = 0"), {"at": boundary}
        )
    planned = [part.name for step in plan(store, POLICY, NOW) for part in step.partitions]
    apply(store, POLICY, NOW)

    assert leaf in planned
    assert store.query("SELECT to_regclass(:leaf)::text", {"leaf": leaf}).rows == [(None,)]


@pytest.mark.needs(Capability.SEVERAL_WRITERS)
@pytest.mark.needs(Capability.COPY)
@pytest.mark.parametrize("unasked_s", [0.0, 1e9])
def test_idle_connection_that_was_cut_off_is_replaced(
    unasked_s: float, store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers notice nothing of a session that the server ended while nobody used it, asked or not."""
    monkeypatch.setattr("storage.pg.connection.UNASKED_S", unasked_s)
    [(pid,)] = store.query("SELECT pg_backend_pid()").rows
    [(again,)] = store.query("SELECT pg_backend_pid()").rows
    with psycopg.connect(
        make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    ) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    [(another,)] = store.query("SELECT pg_backend_pid()").rows

    assert again == pid
    assert another != pid
