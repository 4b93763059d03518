"""
Rows of clients: what is no row is named before anything is written.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from storage.batch import DAY_US
from storage.client_rows import MAX_ROWS, HealthCheck, Row, Sample, batch_of, check_row, digest, parts, sample_row
from storage.errors import InputError
from storage.model import Kind, Outcome
from tests.batches import NOON, SESSION, Spool

CHECK: dict[str, Any] = {"agent": "a", "at": NOON, "outcome": "healthy"}
SAMPLE: dict[str, Any] = {"agent": "a", "metric": "m", "value": 1, "at": NOON}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"agent": ""}, "name of agent '' has no letter"),
        ({"agent": "a\0b"}, "has a NUL byte, expected text of at most 2000 bytes"),
        ({"agent": "é" * 1_001}, "has 2002 bytes"),
        ({"at": datetime(2026, 1, 1)}, "has no time zone, expected aware UTC: add tzinfo=UTC"),  # noqa: DTZ001
        ({"at": datetime(1969, 12, 31, tzinfo=UTC)}, "is out of range, expected 1970 to 2199"),
        ({"at": datetime(2200, 1, 1, tzinfo=UTC)}, "is out of range, expected 1970 to 2199"),
        ({"outcome": "Healthy"}, 'outcome of agent "a" is "Healthy", expected one of healthy, degraded'),
        ({"http_status": 1_000}, "is 1000, expected 0 .none. to 999"),
        ({"latency_ms": -1}, 'latency of agent "a" is -1 ms, expected 0 or more'),
        ({"latency_ms": "fast"}, "latency of agent \"a\" is 'fast', expected a number"),
    ],
)
def test_check_that_is_none(change: dict[str, Any], message: str) -> None:
    """The offender, what was found and what was expected are named."""
    with pytest.raises(InputError, match=message):
        check_row(HealthCheck(**CHECK | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"agent": ""}, "has agent '' and host '', expected the name of one of them"),
        ({"host": "h"}, 'has agent "a" and host "h", expected the name of one of them'),
        ({"kind": "gauges"}, 'kind of "m" is "gauges", expected gauge or counter'),
        ({"value": None}, '"m" is None, expected a number'),
        ({"value": "1"}, "\"m\" is '1', expected a number"),
        ({"value": -1, "kind": "counter"}, "has -1, expected the increase since the last sample, 0 or more"),
        ({"labels": {"k": 1}}, "label of \"m\" is 'k': 1, expected text for text"),
        ({"at": datetime(2026, 1, 1)}, "has no time zone"),  # noqa: DTZ001
    ],
)
def test_sample_that_is_none(change: dict[str, Any], message: str) -> None:
    """The offender, what was found and what was expected are named."""
    with pytest.raises(InputError, match=message):
        sample_row(Sample(**SAMPLE | change))


def test_rows_become_columns() -> None:
    """Names stand once; what is not said is not a number, or points nowhere."""
    rows: list[Row] = [
        check_row(HealthCheck(agent="a", at=NOON, outcome=Outcome.ERROR, reason="cut")),
        sample_row(Sample(host="a", metric="m", value=2, at=NOON, labels={"k": "v", "j": "w"})),
        check_row(HealthCheck(agent="b", at=NOON, outcome="healthy", latency_ms=3)),
        sample_row(Sample(agent="b", metric="m", value=4, at=NOON, kind=Kind.COUNTER)),
    ]
    batch = batch_of(rows, Spool().spool_id, 1, SESSION)
    batch.validate()

    assert batch.agents == ("a", "b")
    assert batch.hosts == ("a",)
    assert batch.reasons == ("cut",)
    assert [(metric.kind, metric.labels) for metric in batch.metrics] == [
        (Kind.COUNTER, ()),
        (Kind.GAUGE, (("j", "w"), ("k", "v"))),
    ]
    assert batch.checks.reason.tolist() == [0, -1]
    assert math.isnan(batch.checks.latency_ms[0])
    assert batch.checks.latency_ms[1] == 3
    assert (batch.agent_samples.value.tolist(), batch.system_samples.value.tolist()) == ([4.0], [2.0])


def test_parts_are_days_of_bounded_size() -> None:
    """Each part is of one day, days ascend, and none is too much for one transaction."""
    row = sample_row(Sample(**SAMPLE))
    later = sample_row(Sample(**SAMPLE | {"at": NOON + timedelta(days=1)}))
    found = list(parts([later, *[row] * (MAX_ROWS + 1), later]))

    assert [len(part) for part in found] == [MAX_ROWS, 1, 2]
    assert [part[0].ts_us // DAY_US - row.ts_us // DAY_US for part in found] == [0, 0, 1]


def test_digest_knows_a_call_again() -> None:
    """Equal calls have one digest, whatever the clock says where the moment is the clock's; others have others."""
    row = sample_row(Sample(**SAMPLE))
    later = sample_row(Sample(**SAMPLE | {"at": NOON + timedelta(seconds=1)}))
    other = sample_row(Sample(**SAMPLE | {"value": 2}))

    assert digest([row], clocked=True) == digest([later], clocked=True)
    assert digest([row], clocked=False) != digest([later], clocked=False)
    assert (
        len({digest(rows, clocked=clocked) for rows in ([row], [other], [row, row]) for clocked in (True, False)}) == 6
    )
