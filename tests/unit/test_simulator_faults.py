"""The grammar of fault scripts."""

from __future__ import annotations

import math

import pytest

from collector.config import Limits
from collector.simulator.faults import DEMO, DEMO_AGENTS, OUTCOMES, Fault, FaultKind, parse_faults
from storage.errors import SettingsError
from storage.model import Outcome


def test_parse_example_of_every_form() -> None:
    """Kinds, arguments, times, ranges and several faults of one agent are read."""
    script = parse_faults(
        "3:500s@20s-40s; 5:hang;8:refused@500ms-1m;12:huge(50MB);13:flap(10s);14:counter_reset@45s;"
        "1,20-22:fail;30-39/4:nan@1h,warn@0s-10s;*:counter_reset@2m",
        40,
    )

    reset = Fault(kind=FaultKind.COUNTER_RESET, from_s=120.0)
    assert len(script) == 40
    assert script[2] == (reset,)
    assert script[3] == (Fault(kind=FaultKind.HTTP_500, from_s=20.0, to_s=40.0), reset)
    assert script[5] == (Fault(kind=FaultKind.HANG), reset)
    assert script[8] == (Fault(kind=FaultKind.REFUSED, from_s=0.5, to_s=60.0), reset)
    assert script[12] == (Fault(kind=FaultKind.HUGE, size=50e6), reset)
    assert script[13] == (Fault(kind=FaultKind.FLAP, size=10.0), reset)
    assert script[14] == (Fault(kind=FaultKind.COUNTER_RESET, from_s=45.0), reset)
    assert [n for n in script if script[n][0].kind is FaultKind.FAIL] == [1, 20, 21, 22]
    assert [n for n in script if FaultKind.NAN in {fault.kind for fault in script[n]}] == [30, 34, 38]
    assert script[30] == (
        Fault(kind=FaultKind.WARN, to_s=10.0),
        reset,
        Fault(kind=FaultKind.NAN, from_s=3600.0),
    )


@pytest.mark.parametrize("spec", ["", "  ", ";", " ; "])
def test_parse_nothing_gives_no_faults(spec: str) -> None:
    """An empty script is a script."""
    assert parse_faults(spec, 5) == {}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("500s", 'fault "500s" has no agent: expected AGENTS:FAULT'),
        ("x:hang", 'fault "x:hang" names no agents: found "x"'),
        ("0:hang", 'fault "0:hang" names agent 0: expected 1 to 9'),
        ("10:hang", 'fault "10:hang" names agent 10: expected 1 to 9, the size of the fleet'),
        ("3-2:hang", 'range "3-2" is empty'),
        ("1-3/0:hang", 'range "1-3/0" is empty'),
        ("3:", 'fault "3:" is not understood: found ""'),
        ("3:hang@", 'fault "3:hang@" has a bad time: found ""'),
        ("3:hangs", 'fault "3:hangs" is of an unknown kind: found "hangs", expected 500s, hang, drip'),
        ("3:hang@20", 'fault "3:hang@20" has a bad time: found "20", expected a number with ms, s, m or h'),
        ("3:hang@40s-20s", 'fault "3:hang@40s-20s" ends before it begins: found 40s to 20s'),
        ("3:hang@20s-20s", "ends before it begins"),
        ("3:hang@1s-2s-3s", "is not understood"),
        ("3:hang(3)", 'fault "3:hang(3)" takes no argument: found "(3)"'),
        ("3:huge(much)", 'fault "3:huge(much)" has a bad size: found "much", expected bytes, like 50MB or 64MiB'),
        ("3:huge(1kB)", f"found 1000 bytes, expected more than the {Limits().body_bytes} that the collector reads"),
        ("3:huge(9999GB)", "has a bad size"),
        ("3:flap(0s)", 'has a bad period: found "0s", expected more than 0 s'),
        ("3:flap(ten)", 'has a bad time: found "ten"'),
        ("3:series(0)", 'has a bad number: found "0", expected 1 to 100000 series'),
        ("3:series(200000)", "expected 1 to 100000 series"),
        ("3:counter_reset", 'needs one moment: write it as "counter_reset@45s"'),
        ("3:counter_reset@1s-2s", "needs one moment"),
        ("3:hang;3:fail", "agent 3 has two faults at 0s: found hang and fail, expected one"),
        ("3:hang@10s-30s,drip@20s", "agent 3 has two faults at 20s: found hang@10s-30s and drip@20s, expected one"),
        ("*:fail@5s;4:hang", "agent 4 has two faults at 5s"),
    ],
)
def test_parse_malformed_names_offender_and_remedy(spec: str, message: str) -> None:
    """What is wrong is refused in words that quote it."""
    with pytest.raises(SettingsError) as caught:
        parse_faults(spec, 9)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["500s", "hang@20s", "refused@0.5s-60s", "huge(50000000)", "flap(10s)@10s-70s", "series(100000)", "drip@0s-3s"],
)
def test_str_of_a_fault_parses_to_it(text: str) -> None:
    """A manifest shows scripts in the grammar that they came in."""
    fault = parse_faults(f"1:{text}", 1)[1][0]

    assert parse_faults(f"1:{fault}", 1)[1][0] == fault


def test_adjoining_phases_are_no_overlap() -> None:
    """Phases are half-open: one may begin where another ends."""
    first, second = parse_faults("1:hang@10s-20s,fail@20s-30s", 1)[1]

    assert first.active(10.0)
    assert first.active(19.999)
    assert not first.active(20.0)
    assert second.active(20.0)
    assert not first.active(9.999)


def test_flap_begins_well() -> None:
    """Flapping alternates from the beginning of its phase, the first half well."""
    (fault,) = parse_faults("1:flap(5s)@10s", 1)[1]

    assert [fault.failing(t) for t in (10.0, 14.9, 15.0, 19.9, 20.0, 25.0)] == [False, False, True, True, False, True]


def test_every_kind_has_an_outcome() -> None:
    """No kind is left without what a poll should find."""
    assert set(OUTCOMES) == set(FaultKind)
    assert set(OUTCOMES.values()) <= set(Outcome)


def test_demo_shows_phases_that_end_and_agents_that_stay_broken() -> None:
    """The demo has transitions within 90 s, and leaves some agents well and some broken throughout."""
    script = parse_faults("demo", DEMO_AGENTS)
    lasting = {n: fault for n, faults in script.items() for fault in faults if fault.kind != FaultKind.COUNTER_RESET}
    passing = {n: fault for n, fault in lasting.items() if math.isfinite(fault.to_s)}

    assert len(passing) == 8
    assert all(0 < fault.from_s < fault.to_s < 90 for fault in passing.values())
    assert len(lasting) - len(passing) == 7
    assert DEMO_AGENTS - len(script) == 4
    assert {fault.kind for faults in script.values() for fault in faults} == set(FaultKind)


def test_demo_on_a_smaller_fleet_leaves_the_rest_out() -> None:
    """A fleet of any size can be a demo."""
    assert list(parse_faults("demo", 5)) == [3, 4, 5]
    assert parse_faults("demo", 500) == parse_faults(DEMO, 500)
