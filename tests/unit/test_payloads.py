"""
What may be handed over to be stored.
"""

from __future__ import annotations

import json
import tracemalloc
from collections import UserDict
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InputError
from storage.payloads import (
    MAX_PAYLOAD_BYTES,
    MAX_PAYLOAD_DEPTH,
    MAX_TEXT_CHARS,
    alike,
    check_integer,
    check_name,
    check_payload,
    check_text,
    several,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON)
def test_json_is_taken(value: object) -> None:
    """Whatever JSON can say passes, and is the same when it comes back."""
    check_payload("payload", value)

    assert json.loads(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "payload cannot be stored: out of range float values are not json compliant"),
        ([1, float("-inf")], "payload cannot be stored"),
        ({"a": [0, {"b": {1, 2}}]}, r"payload at a\[1\].b is of type set, expected JSON: objects with text as keys"),
        ((1, 2), "payload is of type tuple"),
        (b"x", "payload is of type bytes"),
        (Decimal(1), "payload is of type Decimal"),
        (date(2026, 1, 1), "payload is of type date"),
        (UserDict(), "payload is of type UserDict"),
        ({1: 2}, "payload has the key 1"),
        ({"a": {None: 2}}, "payload at a has the key None"),
        ({"a": "x\0"}, "payload at a holds the character NUL"),
        ({"x\0": 1}, "payload, a key, holds the character NUL"),
        (["ab\ud800"], r"payload at \[0\] holds half of a surrogate pair at character 2"),
    ],
)
def test_what_is_no_json_is_refused(value: object, message: str) -> None:
    """The message names the place and what may stand there."""
    with pytest.raises(InputError, match=message):
        check_payload("payload", value)


def test_what_is_too_long() -> None:
    """Bytes count, not characters; a whole number of more digits than Python writes is refused as well."""
    check_payload("payload", "é" * (MAX_PAYLOAD_BYTES // 2 - 1))

    with pytest.raises(InputError, match=r"payload has 1,000,002 bytes as JSON, expected at most 1,000,000: store it"):
        check_payload("payload", "é" * (MAX_PAYLOAD_BYTES // 2))
    with pytest.raises(InputError, match="payload cannot be stored: exceeds the limit"):
        check_payload("payload", 10**5_000)


def test_depth() -> None:
    """As many levels as the limit pass, one more does not, and neither do ten thousand or a value that holds itself."""

    def nested(levels: int) -> object:
        value: object = 1
        for _ in range(levels):
            value = [value]
        return value

    circle: list[object] = []
    circle.append(circle)

    check_payload("payload", nested(MAX_PAYLOAD_DEPTH))
    for value in (nested(MAX_PAYLOAD_DEPTH + 1), nested(10_000), circle):
        with pytest.raises(InputError, match="payload has more than 100 levels, expected fewer"):
            check_payload("payload", value)


def test_what_is_shared_counts_as_often_as_it_stands_there() -> None:
    """What would fill all memory as JSON is refused before anybody writes it."""

    def shared(part: object, times: int, levels: int = 1) -> object:
        for _ in range(levels):
            part = [part] * times
        return part

    for value in (shared(0, 10, 7), shared("x" * 900_000, 10_000), shared(10**4_000, 50_000), shared({}, 10**6)):
        with pytest.raises(InputError, match="payload has more than 1,000,000 bytes as JSON, expected at most"):
            check_payload("payload", value)


def test_places_cost_nothing_until_they_are_told() -> None:
    """Many parts below a long key take no more memory to look at than they have."""
    value = {"k" * 50_000: [0] * 20_000}
    tracemalloc.start()
    try:
        check_payload("payload", value)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert most_bytes < 10_000_000


def test_place_of_a_long_key_is_short() -> None:
    """A message names the place, not the whole payload."""
    with pytest.raises(InputError, match=r"^payload at kkk.*\[3\] holds the character NUL") as caught:
        check_payload("payload", {"k" * 50_000: [0, 0, 0, "\0"]})

    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["a", "x" * 200, "näme with spaces", "a/b:c", "任务"])
def test_names_that_are_taken(name: str) -> None:
    """Names are for people."""
    check_name("name", name)


@pytest.mark.parametrize("name", ["", " a", "a ", "a\tb", "\0", "\x7f", "x" * 201, "\ud800", None, 1])
def test_names_that_are_refused(name: object) -> None:
    """What cannot be seen, or not be stored, is no name."""
    with pytest.raises(
        InputError, match=r"^name is .*, expected 1 to 200 characters, none of them a control character"
    ):
        check_name("name", name)


def test_text() -> None:
    """A reason may have line breaks, and ends somewhere."""
    check_text("reason", "Traceback:\n\tnothing")

    for value, message in (
        ("x" * (MAX_TEXT_CHARS + 1), "reason has 100,001 characters, expected at most 100,000"),
        ("\0", "reason holds the character NUL"),
        ("\udfff", "reason holds half of a surrogate pair"),
        (None, "reason is of type NoneType, expected text"),
    ):
        with pytest.raises(InputError, match=message):
            check_text("reason", value)


def test_what_is_written_alike() -> None:
    """Python's equals are not those of JSON; the order of keys says nothing."""
    assert alike({"a": [1, {"b": None}], "c": "d"}, {"c": "d", "a": [1, {"b": None}]})
    assert alike("a", "a")
    assert not alike("a", "b")
    for first, second in (([1], [True]), ({"a": 1}, {"a": 1.0}), ({"a": [{"b": 0}]}, {"a": [{"b": False}]}), ([], {})):
        assert not alike(first, second)
        assert not alike(second, first)


def test_several() -> None:
    """Whatever can be gone through is a list, but for what would come apart into letters or keys."""
    assert several("types", (each for each in "ab"), str) == ["a", "b"]

    for values, message in (
        ("ab", r'types is "ab", expected a list of types: write \["ab"\]'),
        (None, "types is None, expected a list of types"),
        ({"a": 1}, "types is {'a': 1}, expected a list of types"),
        (["a", 5], r"types\[1\] is 5, expected text"),
    ):
        with pytest.raises(InputError, match=message):
            several("types", values, str)


def test_whole_numbers() -> None:
    """Numbers fit their column; truth is none."""
    for good in (-(2**31) + 1, 0, 2**31 - 1):
        check_integer("priority", good)
    for bad in (2**31, -(2**31), 1.0, True, "1", None):
        with pytest.raises(InputError, match=r"priority is .*, expected a whole number from -2147483647 to 2147483647"):
            check_integer("priority", bad)
    with pytest.raises(InputError, match="attempts is 0, expected a whole number from 1 to 2147483647"):
        check_integer("attempts", 0, least=1)
