"""
The statements that compute rollups on SQLite, and the public views over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from types import MappingProxyType

from storage.layout import TABLE_CODE, TIER_CODE, key_columns, parent, rollup_columns
from storage.model import MICROSECOND, Table, Tier
from storage.queries import load

_ROLLUPS = "sql/sqlite/rollups.sql"

#: Column of a tier to how it is aggregated, and what it is of one raw row ``r``; without those that tell what came last.
_HEALTH: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "n": ("sum", "r.ts IS NOT NULL"),
        "healthy": ("sum", "r.outcome = 0"),
        "degraded": ("sum", "r.outcome = 1"),
        "unhealthy": ("sum", "r.outcome = 2"),
        "stalled": ("sum", "r.outcome = 3"),
        "timeout": ("sum", "r.outcome = 4"),
        "refused": ("sum", "r.outcome = 5"),
        "error": ("sum", "r.outcome = 6"),
        "skipped": ("sum", "r.outcome = 7"),
        "paused": ("sum", "r.outcome = 8"),
        "latency_n": ("sum", "r.latency_ms IS NOT NULL"),
        "latency_sum": ("sum", "r.latency_ms"),
        "latency_min": ("min", "r.latency_ms"),
        "latency_max": ("max", "r.latency_ms"),
        "late_max": ("max", "r.late_ms"),
        "latency_bins": ("latency_bins_merge", "'[[' || latency_bin(r.latency_ms) || ',1]]'"),
    }
)
_SAMPLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "n": ("sum", "r.ts IS NOT NULL"),
        "sum": ("sum", "r.value"),
        "min": ("min", "r.value"),
        "max": ("max", "r.value"),
    }
)
_LAST = frozenset({"last", "latency_last", "last_outcome"})
#: Statements, by whether they are about checks and about raw rows.
_LAST_OF: Mapping[tuple[bool, bool], str] = MappingProxyType(
    {
        (True, True): "health_last_raw",
        (True, False): "health_last_tier",
        (False, True): "samples_last_raw",
        (False, False): "samples_last_tier",
    }
)
_MARKED: Mapping[Tier, str] = MappingProxyType({Tier.M1: "marked_1m", Tier.H1: "marked_1h", Tier.D1: "marked_1d"})

#: Materialised tiers that a marked bucket of each tier is put together from beside raw rows, coarsest first: their
#: aliases, which name the bounds of pieces too.
_PIECES: Mapping[Tier, tuple[tuple[str, Tier], ...]] = MappingProxyType(
    {Tier.M1: (), Tier.H1: (("m", Tier.M1),), Tier.D1: (("h", Tier.H1), ("m", Tier.M1))}
)


def step_us(tier: Tier) -> int:
    """Return the width of a bucket of *tier* in microseconds."""
    return tier.step // MICROSECOND


def floored(expression: str, step: timedelta) -> str:
    """Return the SQL of the start of the bucket that the moment *expression* lies in."""
    width = step // MICROSECOND
    return f"{expression} - {expression} % {width}"


def names(columns: Sequence[str], alias: str = "") -> str:
    """Return *columns* as a list of SQL, each of *alias*."""
    return ", ".join(f"{alias}.{name}" if alias else name for name in columns)


@cache
def bucket(table: Table, tier: Tier) -> str:
    """Return the SELECT that computes one bucket ``[:start, :end)`` of *tier* from the tier below."""
    source = tier.finer
    time = time_column(source)
    rows = _statement("bucket", raw=table.value, source=parent(table, source), same=_same(table, "r"), time=time)
    return _computed(table, tier, source, rows, ":start", "s", one=True)


@cache
def proof(table: Table, tier: Tier, source: Tier) -> str:
    """Return the SELECT that computes the buckets ``[:start, :end)`` of *tier* from *source*; of a day from raw one."""
    long = tier is Tier.D1 and source is Tier.RAW
    time = time_column(source)
    rows = _statement("window_of_one" if long else "window", source=parent(table, source), time=time)
    return _computed(table, tier, source, rows, ":start" if long else floored(f"r.{time}", tier.step), "r", one=long)


def time_column(tier: Tier) -> str:
    """Return the column that says when a row of *tier* is."""
    return "ts" if tier is Tier.RAW else "bucket"


def _computed(table: Table, tier: Tier, source: Tier, rows: str, bucket: str, key: str, *, one: bool) -> str:
    raw = source is Tier.RAW
    columns = {name: _aggregate(table, name, [] if raw else ["r"], raw=raw) for name in _columns(table)}
    return _with_last(table, tier, source, _grouped(table, bucket, key, columns, rows, one=one))


def view(table: Table, tier: Tier) -> str:
    """Return the statement that makes the public view of *tier*."""
    average = (
        "u.latency_sum / nullif(u.latency_n, 0) AS latency_avg"
        if table is Table.HEALTH
        else "u.sum / nullif(u.n, 0) AS avg"
    )
    columns = rollup_columns(table)
    return _statement(
        "view",
        view=table.relation(tier),
        columns=names(columns, "u"),
        averages=average,
        held=names(columns, "m"),
        mat=parent(table, tier),
        tbl=TABLE_CODE[table],
        tier=TIER_CODE[tier],
        clean=_clean(table, tier, "m"),
        marked=_marked(table, tier),
    )


@cache
def differences(table: Table, tier: Tier, against: Tier, limit: int) -> str:
    """
    Return the SELECT of up to *limit* differences between the public view of *tier* and what *against* makes of it.

    It answers the bucket and the other key columns, then all remaining columns as found, then as expected.
    """
    keys = ["bucket", *key_columns(table)]
    compared = [name for name in rollup_columns(table) if name not in keys]
    sides = [
        f"max(CASE WHEN b.side = {side} THEN b.{name} END) AS {alias}_{name}"
        for side, alias in enumerate("fe")
        for name in compared
    ]
    return _statement(
        "differences",
        answered=names([*keys, *(f"{alias}_{name}" for alias in "fe" for name in compared)], "d"),
        key=names(keys, "b"),
        sides=", ".join(sides),
        columns=names(rollup_columns(table)),
        view=table.relation(tier),
        expected=proof(table, tier, against),
        differs=" OR ".join(_differs(name) for name in compared),
        limit=limit,
    )


def _differs(name: str) -> str:
    if name not in ("sum", "latency_sum"):
        return f"d.f_{name} IS NOT d.e_{name}"
    prefix = name.removesuffix("sum")
    # Addition in another order differs in the last bits; by no more than this.
    return (
        f"((d.f_{name} IS NULL) <> (d.e_{name} IS NULL)"
        f" OR abs(d.f_{name} - d.e_{name}) > 1e-9 * d.e_{prefix}n * max(abs(d.e_{prefix}min), abs(d.e_{prefix}max)))"
    )


def _statement(name: str, **parts: object) -> str:
    return load("storage", _ROLLUPS)[name].format(**parts)


def _columns(table: Table) -> Mapping[str, tuple[str, str]]:
    return _HEALTH if table is Table.HEALTH else _SAMPLES


def _aggregate(table: Table, name: str, tiers: Sequence[str], *, raw: bool) -> str:
    """Return the aggregate that makes column *name* out of the tiers of these aliases, and of raw rows."""
    aggregate, of_raw = _columns(table)[name]
    if not tiers and name == "latency_bins":
        # One call for each row instead of three.
        return "latency_bins_of(r.latency_ms)"
    parts = [f"{alias}.{name}" for alias in tiers] + ([of_raw] if raw else [])
    return f"{aggregate}({parts[0] if len(parts) == 1 else 'coalesce(' + ', '.join(parts) + ')'})"


def _grouped(table: Table, bucket: str, key: str, columns: Mapping[str, str], rows: str, *, one: bool = False) -> str:
    """Return the SELECT that aggregates *rows* by series and, unless they are of *one*, by bucket."""
    keys = names(key_columns(table), key)
    return _statement(
        "computed",
        bucket=bucket,
        key=keys,
        group=keys if one else f"{bucket}, {keys}",
        columns=",\n       ".join(f"{aggregate} AS {name}" for name, aggregate in columns.items()),
        n=columns["n"],
        rows=rows,
    )


def _with_last(table: Table, tier: Tier, source: Tier, inner: str) -> str:
    """Return *inner* with the columns that tell what came last, in the order of the materialised table."""
    columns = rollup_columns(table)
    before = columns[: min(place for place, name in enumerate(columns) if name in _LAST)]
    return _statement(
        _LAST_OF[table is Table.HEALTH, source is Tier.RAW],
        before=names(before, "x"),
        source=parent(table, source),
        entity=table.entity,
        step=step_us(tier),
        computed=inner,
    )


def _marked(table: Table, tier: Tier) -> str:
    """
    Return the SELECT of the rows of all marked buckets of *tier*.

    What came last is looked for among raw rows, whatever the tier: a marked bucket lies above the raw horizon.
    """
    pieces = _PIECES[tier]
    raw = parent(table, Tier.RAW)
    parts: dict[str, object] = {"tbl": TABLE_CODE[table], "raw": raw, "same_r": _same(table, "r")}
    for alias, held in pieces:
        parts[{"m": "minutes", "h": "hours"}[alias]] = parent(table, held)
        parts[f"same_{alias}"] = _same(table, alias)
        parts[f"clean_{alias}"] = _clean(table, held, alias)
    rows = _statement(_MARKED[tier], **parts)
    columns = {name: _aggregate(table, name, [alias for alias, _ in pieces], raw=True) for name in _columns(table)}
    bucket, key = ("p.bucket", "s") if pieces else ("d.bucket", "r")
    return _with_last(table, tier, Tier.RAW, _grouped(table, bucket, key, columns, rows))


def _same(table: Table, alias: str) -> str:
    return " AND ".join(f"{alias}.{name} = s.{name}" for name in key_columns(table))


def _clean(table: Table, tier: Tier, alias: str) -> str:
    return _statement(
        "clean",
        tbl=TABLE_CODE[table],
        tiers=", ".join(str(code) for code in range(1, TIER_CODE[tier] + 1)),
        alias=alias,
        step=step_us(tier),
    )
