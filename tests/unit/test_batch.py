"""
Batches: checked, encoded, and recognised when they are damaged.
"""

from __future__ import annotations

import zlib
from dataclasses import fields, replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.batch import Batch, decode, encode, make_checks, make_samples
from storage.errors import BatchError
from storage.model import Kind, Loss, MetricKey, Outcome, Table, Transition
from tests.batches import NOON, SESSION, Spool

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
LABELS = st.dictionaries(WORDS, WORDS, max_size=3).map(lambda pairs: tuple(sorted(pairs.items())))
METRICS = st.builds(
    MetricKey, name=WORDS, labels=LABELS, kind=st.sampled_from(list(Kind)), unit=WORDS, description=WORDS
)


def same(left: Batch, right: Batch) -> bool:
    """Tell whether two batches say the same, columns and all."""
    for table in Table:
        one, other = left.columns(table), right.columns(table)
        for column in fields(one):
            if not np.array_equal(getattr(one, column.name), getattr(other, column.name), equal_nan=True):
                return False
    empty = {"checks": make_checks(), "agent_samples": make_samples(), "system_samples": make_samples()}
    plain = [replace(each, **empty) for each in (left, right)]  # type: ignore[arg-type]  # columns by name
    return all(
        getattr(plain[0], each.name) == getattr(plain[1], each.name) for each in fields(Batch) if each.name not in empty
    )


@given(metrics=st.lists(METRICS, min_size=1, max_size=5), names=st.lists(WORDS, min_size=1, max_size=4), data=st.data())
def test_decode_gives_back_what_encode_took(metrics: list[MetricKey], names: list[str], data: st.DataObject) -> None:
    """Every name, number and NaN survives, whatever characters a label holds."""
    size = data.draw(st.integers(0, 20))
    values = data.draw(st.lists(st.floats(allow_nan=True), min_size=size, max_size=size))
    moments = data.draw(st.lists(st.integers(0, 2**52), min_size=size, max_size=size))
    batch = Batch(
        spool_id=Spool().spool_id,
        seq=data.draw(st.integers(1, 2**62)),
        session=SESSION,
        agents=tuple(names),
        metrics=tuple(metrics),
        agent_samples=make_samples(ts_us=moments, entity=[0] * size, metric=[0] * size, value=values),
        transitions=(Transition(agent=names[0], due=NOON, old="unknown", new="healthy", reason=names[-1]),),
        losses=(Loss(agent=names[0], from_due=NOON, to_due=NOON + timedelta(hours=1), n=3, reason="spool_full"),),
        observed_to_us=data.draw(st.integers(0, 2**52)),
    )

    assert same(decode(encode(batch)), batch)


def test_session_of_a_client_stays_one() -> None:
    """It comes back as it went; a batch of a spool that knew no clients is a collector's."""
    data = encode(replace(Spool().batch(), session=replace(SESSION, is_collector=False)))
    body = data[12:].replace(b',"is_collector":false', b"")
    size = int.from_bytes(data[4:8], "little") - (len(data) - 12 - len(body))
    old = data[:4] + size.to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body

    assert not decode(data).session.is_collector
    assert decode(old).session == SESSION


@pytest.mark.parametrize("place", [0, 5, 9, 20, -1])
def test_decode_refuses_damage(place: int) -> None:
    """A flipped bit anywhere, or bytes that are cut off, are found before anything is believed."""
    data = bytearray(encode(Spool().batch(samples=[("a", "m", NOON, 1.0)], checks=[("a", NOON, Outcome.ERROR, None)])))
    data[place] ^= 0x10

    with pytest.raises(BatchError):
        decode(bytes(data))
    with pytest.raises(BatchError):
        decode(encode(Spool().batch(samples=[("a", "m", NOON, 1.0)]))[:-3])


def test_decode_names_what_it_found() -> None:
    """What is not a batch is told from a damaged one."""
    with pytest.raises(BatchError, match="not a batch: found b'SQLi' at its start, expected b'FPB1'"):
        decode(b"SQLite format 3\x00")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": np.zeros(1)}, "columns of unequal length"),
        (
            {"entity": np.array([0, 7], np.int32)},
            r"agent_metrics entity index is out of range: found 0\.\.7, expected 0\.\.0",
        ),
        ({"metric": np.array([-1, 0], np.int32)}, r"metric index is out of range: found -1\.\.0"),
    ],
)
def test_validate_names_the_offender(change: dict[str, np.ndarray], message: str) -> None:
    """A malformed batch is refused with what was found and what was expected."""
    batch = Spool().batch(samples=[("a", "m", NOON, 1.0), ("a", "m", NOON, 2.0)])
    broken = replace(batch, agent_samples=replace(batch.agent_samples, **change))

    with pytest.raises(BatchError, match=message):
        broken.validate()
