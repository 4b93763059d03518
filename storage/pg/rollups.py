"""
Refreshing tiers and proving them, on plain PostgreSQL.

One refresher per table at a time, by a session lock: the lock must be held *before* the transaction takes its
snapshot, so a transaction lock will not do. Inside one REPEATABLE READ transaction the refresher reads marks, computes
their buckets anew, appends the marks of the next tier, and deletes the marks that it read, by id. A mark that a writer
commits meanwhile is outside the snapshot, as are its rows: it stays, and the bucket stays dirty.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

import psycopg
from psycopg import IsolationLevel, errors, sql

from storage import deadlines
from storage.layout import TABLE_CODE, TIER_CODE, key_columns, parent, rollup_columns, slices
from storage.model import ROLLUPS, Table, Tier, Window, ceil
from storage.pg import partitions
from storage.pg.connection import insist_direct, set_deadline
from storage.pg.layout import ORIGIN, REFRESH_LOCK, computed, computed_from_raw, exact, interval, moment
from storage.queries import load
from storage.store import Mismatch, RefreshResult

log = logging.getLogger(__name__)

#: Differences that one call reports; a tier that is wrong everywhere need not be listed row by row.
MISMATCH_LIMIT = 100


@contextmanager
def refresh_lock(connection: psycopg.Connection, table: Table, *, wait: bool = False) -> Iterator[bool]:
    """Hold the refresher's lock of *table*; yields whether it was had. With *wait* it waits ``lock_timeout``."""
    key = (REFRESH_LOCK, TABLE_CODE[table])
    if wait:
        connection.execute("SELECT pg_advisory_lock(%s, %s)", key)
        held = True
    else:
        row = connection.execute("SELECT pg_try_advisory_lock(%s, %s)", key).fetchone()
        held = row == (True,)
    try:
        yield held
    finally:
        if held and not connection.closed:
            connection.execute("SELECT pg_advisory_unlock(%s, %s)", key)


def dirty(connection: psycopg.Connection, table: Table, tier: Tier, closed_before: datetime) -> list[datetime]:
    """Return the marked buckets of *tier* that end at or before *closed_before*, ascending."""
    rows = connection.execute(
        "SELECT DISTINCT bucket FROM marks WHERE tbl = %s AND tier = %s AND bucket <= %s ORDER BY bucket",
        (TABLE_CODE[table], TIER_CODE[tier], closed_before - tier.step),
    )
    return [row[0] for row in rows]


def refresh(
    connection: psycopg.Connection, table: Table, tier: Tier, closed_before: datetime, limit: int
) -> RefreshResult:
    """Recompute up to *limit* dirty, closed buckets of *tier*, oldest first, in one transaction."""
    with refresh_lock(connection, table) as held:
        if not held:
            return RefreshResult(busy=True)
        insist_direct(connection)
        buckets = dirty(connection, table, tier, closed_before)[:limit]
        if not buckets:
            return RefreshResult()
        runs = list(runs_of(buckets, tier))
        for run in runs:
            partitions.ensure(connection, table, [tier], run)
        touched = {part.name for run in runs for part in slices(table, tier, run)}
        _prepare(connection, touched | {part.name for run in runs for part in slices(table, tier.finer, run)})
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        try:
            with connection.transaction():
                result = _recompute(connection, table, tier, buckets)
        finally:
            if not connection.closed:
                connection.isolation_level = None
        _prepare(connection, touched)
        return result


def _prepare(connection: psycopg.Connection, leaves: Collection[str]) -> None:
    """
    Let the planner and the BRIN indexes know what has come since, so that a bucket is found without a scan.

    A page range without a summary is read by every search; autosummarize leaves that to the next autovacuum. Without
    statistics the planner takes BRIN for a full scan; autovacuum looks once a minute, a backlog is faster than that.
    Nothing depends on it: a partition that somebody vacuums or indexes just now is left alone.
    """
    set_deadline(connection, deadlines.PREPARE)
    try:
        for name in sorted(leaves):
            found = connection.execute(_statements()["growth"], {"name": name}).fetchone()
            if found == (True,):
                connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(name)))
            connection.execute(_statements()["summarise"], {"name": name})
    except (errors.LockNotAvailable, errors.QueryCanceled) as exc:
        log.debug("indexes of %s are not brought up to date: %s", name, exc)
    set_deadline(connection, deadlines.REFRESH)


def _statements() -> Mapping[str, str]:
    return load("storage", "sql/postgresql/refresh.sql")


def _recompute(connection: psycopg.Connection, table: Table, tier: Tier, buckets: Sequence[datetime]) -> RefreshResult:
    """Do the work of one refresh inside the caller's transaction, whose snapshot the first statement takes."""
    marks = connection.execute(
        "SELECT mark_id, bucket FROM marks WHERE tbl = %s AND tier = %s AND bucket = ANY(%s)",
        (TABLE_CODE[table], TIER_CODE[tier], buckets),
    ).fetchall()
    buckets = sorted({bucket for _, bucket in marks})
    rows = 0
    for run in runs_of(buckets, tier):
        delete, insert = recompute_statements(table, tier, run)
        connection.execute(delete)
        rows += connection.execute(insert).rowcount
    pass_on(connection, table, tier, buckets)
    connection.execute("DELETE FROM marks WHERE mark_id = ANY(%s)", ([mark for mark, _ in marks],))
    return RefreshResult(buckets=len(buckets), rows=rows, marks=len(marks))


def pass_on(connection: psycopg.Connection, table: Table, tier: Tier, buckets: Sequence[datetime]) -> None:
    """Mark the buckets of the next tier that *buckets* of *tier*, computed anew, lie in."""
    coarser = tier.coarser
    if coarser is not None:
        connection.execute(
            sql.SQL(
                "INSERT INTO marks (tbl, tier, bucket)"
                " SELECT DISTINCT %s, %s, date_bin({}, b, {}) FROM unnest(%s::timestamptz[]) AS b"
            ).format(interval(coarser.step), ORIGIN),
            (TABLE_CODE[table], TIER_CODE[coarser], list(buckets)),
        )


def recompute_statements(table: Table, tier: Tier, window: Window) -> tuple[sql.Composed, sql.Composed]:
    """
    Return the statements that empty the buckets of *window* and fill them anew from the tier below.

    Rows are put in by bucket: BRIN finds a bucket of a backlog then as it finds one of a live day.
    """
    start, end = moment(window.start), moment(window.end)
    target, source = sql.Identifier(parent(table, tier)), sql.Identifier(parent(table, tier.finer))
    return (
        sql.SQL("DELETE FROM {} WHERE bucket >= {} AND bucket < {}").format(target, start, end),
        sql.SQL("INSERT INTO {} ({}) {} ORDER BY {}").format(
            target,
            sql.SQL(", ").join(map(sql.Identifier, rollup_columns(table))),
            computed(table, tier, source, start, end),
            sql.SQL(", ").join(map(sql.Identifier, ["bucket", *key_columns(table)])),
        ),
    )


def runs_of(buckets: Sequence[datetime], tier: Tier) -> Iterator[Window]:
    """Yield the longest windows of adjacent *buckets*: literal bounds let the planner leave out partitions."""
    start: datetime | None = None
    end: datetime | None = None
    for bucket in buckets:
        if start is not None and end is not None and bucket != end:
            yield Window(start, end)
            start = None
        start = bucket if start is None else start
        end = bucket + tier.step
    if start is not None and end is not None:
        yield Window(start, end)


def dropped_horizon(connection: psycopg.Connection, table: Table, tier: Tier) -> datetime:
    """Return the moment below which nothing of *tier* is held or computed."""
    row = connection.execute(
        "SELECT dropped_before FROM horizons WHERE tbl = %s AND tier = %s", (TABLE_CODE[table], TIER_CODE[tier])
    ).fetchone()
    if row is None:
        raise AssertionError(f"BUG: {table} {tier} has no horizon")
    found: datetime = row[0]
    return found


def mark(connection: psycopg.Connection, table: Table, window: Window, *, forced: bool = False) -> int:
    """
    Mark every bucket of every tier that holds something within *window*, from the raw horizon on; count them.

    Args:
        forced: Say so in the marks, for engines whose marks can.
    """
    marked = 0
    # Under the refresher's lock, so that no horizon moves between the look and the marks.
    insist_direct(connection)
    with refresh_lock(connection, table, wait=True), connection.transaction():
        horizon = dropped_horizon(connection, table, Tier.RAW)
        for tier in ROLLUPS:
            whole, lowest = window.aligned(tier.step), ceil(horizon, tier.step)
            bounds = {"start": moment(max(whole.start, lowest)), "end": moment(max(whole.end, lowest))}
            held = sql.SQL("SELECT bucket FROM {mat} WHERE bucket >= {start} AND bucket < {end}").format(
                mat=sql.Identifier(parent(table, tier)), **bounds
            )
            if tier is Tier.M1:
                held += sql.SQL(
                    " UNION SELECT date_bin({step}, ts, {origin}) FROM {raw} WHERE ts >= {start} AND ts < {end}"
                ).format(step=interval(tier.step), origin=ORIGIN, raw=sql.Identifier(table.value), **bounds)
            marked += connection.execute(
                sql.SQL(
                    "INSERT INTO marks (tbl, tier, bucket{})"
                    " SELECT DISTINCT %s, %s::smallint, h.bucket{} FROM ({}) AS h ORDER BY h.bucket"
                ).format(*(map(sql.SQL, (", forced", ", true") if forced else ("", ""))), held),
                (TABLE_CODE[table], TIER_CODE[tier]),
            ).rowcount
    return marked


#: Makes the SELECT of the rows of a tier in ``[start, end)``, in the order of its columns.
Shown = Callable[[Table, Tier, sql.Composable, sql.Composable], sql.Composed]


def verify_tier(
    connection: psycopg.Connection,
    table: Table,
    tier: Tier,
    window: Window,
    against: Tier,
    *,
    shown: Shown = exact,
    skip_marked: bool = False,
) -> list[Mismatch]:
    """
    Compare the rows of *tier* with a GROUP BY over those of *against*, in one statement.

    Rows that retention drops meanwhile look like differences, so a finding holds only if the horizon has not moved.

    Args:
        shown: What readers see of the tier.
        skip_marked: Say nothing of buckets that are marked: where readers do not see through marks, these are known to
            lag.
    """
    if against not in (Tier.RAW, tier.finer):
        raise AssertionError(f"BUG: {tier} cannot be computed from {against} in one step")
    whole = window.aligned(tier.step)
    while True:
        horizon = dropped_horizon(connection, table, against)
        start = max(whole.start, ceil(horizon, tier.step))
        if start >= whole.end:
            return []
        found = _differences(connection, table, tier, Window(start, whole.end), against, shown, skip_marked)
        if not found or dropped_horizon(connection, table, against) == horizon:
            return found


def _differences(
    connection: psycopg.Connection,
    table: Table,
    tier: Tier,
    window: Window,
    against: Tier,
    shown: Shown,
    skip_marked: bool,
) -> list[Mismatch]:
    start, end = window.start, window.end
    columns = rollup_columns(table)
    keys = ["bucket", *key_columns(table)]
    compared = [name for name in columns if name not in keys]
    expected = (
        computed_from_raw(table, tier, moment(start), moment(end))
        if against is Tier.RAW
        else computed(table, tier, sql.Identifier(parent(table, against)), moment(start), moment(end))
    )
    statement = sql.SQL(
        "SELECT {selected} FROM (\n{found}\n) AS f FULL JOIN (\n{expected}\n) AS e ON {same_key}"
        " WHERE (f.bucket IS NULL OR e.bucket IS NULL OR {differs}){settled} ORDER BY 1, 2 LIMIT {limit}"
    ).format(
        selected=sql.SQL(", ").join(
            [
                *(sql.SQL("coalesce({}, {})").format(sql.Identifier("f", k), sql.Identifier("e", k)) for k in keys),
                *(sql.Identifier("f", name) for name in compared),
                *(sql.Identifier("e", name) for name in compared),
            ]
        ),
        found=shown(table, tier, moment(start), moment(end)),
        expected=expected,
        same_key=sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier("f", k), sql.Identifier("e", k)) for k in keys
        ),
        differs=sql.SQL(" OR ").join(_differs(name) for name in compared),
        settled=_unmarked(table, tier, window) if skip_marked else sql.SQL(""),
        limit=sql.Literal(MISMATCH_LIMIT),
    )
    width = len(compared)
    return [
        Mismatch(
            table=table,
            tier=tier,
            bucket=row[0],
            key=dict(zip(keys[1:], row[1 : len(keys)], strict=True)),
            found=dict(zip(compared, row[len(keys) : len(keys) + width], strict=True)),
            expected=dict(zip(compared, row[len(keys) + width :], strict=True)),
        )
        for row in connection.execute(statement)
    ]


def _unmarked(table: Table, tier: Tier, window: Window) -> sql.Composed:
    """Return the condition that leaves out buckets with a mark of *tier* or of a finer one."""
    return sql.SQL(
        " AND coalesce(f.bucket, e.bucket) NOT IN (SELECT date_bin({step}, k.bucket, {origin}) FROM marks AS k"
        " WHERE k.tbl = {tbl} AND k.tier <= {tier} AND k.bucket >= {start} AND k.bucket < {end})"
    ).format(
        step=interval(tier.step),
        origin=ORIGIN,
        tbl=sql.Literal(TABLE_CODE[table]),
        tier=sql.Literal(TIER_CODE[tier]),
        start=moment(window.start),
        end=moment(window.end),
    )


def _differs(name: str) -> sql.Composed:
    found, expected = sql.Identifier("f", name), sql.Identifier("e", name)
    if name == "latency_bins":
        return sql.SQL("latency_bins_pack({}) IS DISTINCT FROM latency_bins_pack({})").format(found, expected)
    if name not in ("sum", "latency_sum"):
        return sql.SQL("{} IS DISTINCT FROM {}").format(found, expected)
    prefix = name.removesuffix("sum")
    n, low, high = (sql.Identifier("e", f"{prefix}{part}") for part in ("n", "min", "max"))
    # Addition in another order differs in the last bits; by no more than this.
    return sql.SQL(
        "(({found} IS NULL) <> ({expected} IS NULL)"
        " OR abs({found} - {expected}) > 1e-9 * {n} * greatest(abs({low}), abs({high})))"
    ).format(found=found, expected=expected, n=n, low=low, high=high)
