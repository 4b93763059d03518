"""What simulated agents answer, as functions of seed, agent, scrapes and time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from collector.config import Limits
from collector.simulator.agent import Answer, Delivery, SimulatedAgent
from collector.simulator.documents import Format, Writer
from collector.simulator.faults import MAX_SERIES, parse_faults
from collector.simulator.main import FleetOptions, build_agents
from collector.simulator.values import REQUESTS_STEP, TOKENS_STEP, Counters, gauge, scrape_at
from storage.errors import SettingsError
from storage.model import Outcome

STARTED_S = 1_700_000_000.25


def make(number: int, faults: str = "", *, seed: int = 7, samples: int = 10, histogram: bool = False) -> SimulatedAgent:
    """Make agent *number*, with *faults* as its part of a script."""
    script = parse_faults(f"{number}:{faults}" if faults else "", number)
    return SimulatedAgent(
        number=number,
        prefix="demo",
        width=4,
        seed=seed,
        faults=script.get(number, ()),
        writer=Writer(samples=samples, histogram=histogram),
    )


def body(answer: Answer) -> bytes:
    """Return the body of a whole answer, after a look at its length."""
    head, _, found = answer.data.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(found)}".encode() in head.split(b"\r\n")
    return found


def samples(answer: Answer) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield the samples of an exposition, as the reference parser reads them."""
    for family in text_string_to_metric_families(body(answer).decode()):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def ask(agent: SimulatedAgent, elapsed_s: float = 0.0, form: Format | None = None) -> Answer:
    """Ask *agent* for a document, the one that it is polled for by default."""
    return agent.answer(f"{agent.root}/{(form or agent.format).path}", elapsed_s, STARTED_S)


@given(
    seed=st.integers(0, 2**31 - 1),
    number=st.integers(1, 50_000),
    resets=st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
def test_values_follow_from_seed_agent_and_scrapes_alone(seed: int, number: int, resets: list[int]) -> None:
    """Whatever an agent has been through, its numbers can be recomputed from what the log says."""
    counters = Counters(seed, number)
    for generation, scrapes in enumerate(resets):
        for served in range(1, scrapes + 1):
            found = counters.advance(generation)

            assert found == scrape_at(seed=seed, number=number, resets=generation, served=served)


def test_counters_step_by_known_integers() -> None:
    """Each scrape adds a step within its bounds, and two steps are more than any one."""
    counters = Counters(1, 1)
    totals = [(scrape.requests_total, scrape.tokens_total) for scrape in (counters.advance(0) for _ in range(2_000))]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in zip([(0, 0), *totals], totals, strict=False)]

    assert {step for step, _ in steps} == set(range(REQUESTS_STEP, 2 * REQUESTS_STEP))
    assert min(step for _, step in steps) >= TOKENS_STEP
    assert max(step for _, step in steps) < 2 * TOKENS_STEP


def test_values_differ_between_agents_and_seeds() -> None:
    """Neighbours and other seeds show other numbers."""
    found = {
        tuple(scrape_at(seed=seed, number=number, resets=0, served=3)) for seed in range(20) for number in range(1, 51)
    }

    assert len(found) == 1_000


@given(noise=st.integers(0, 2**64 - 1), place=st.integers(0, 4_000), below=st.integers(1, 65_536))
def test_gauge_stays_in_its_range(noise: int, place: int, below: int) -> None:
    """A gauge is at least 0 and less than its bound."""
    assert 0 <= gauge(noise, place, below) < below


@pytest.mark.parametrize("n", [2, 3, 5, 10, 11, 500])
def test_exposition_has_as_many_samples_as_asked(n: int) -> None:
    """The reference parser finds the samples that were asked for, all of them different series."""
    agent = make(2, samples=n)
    answer = ask(agent)
    found = list(samples(answer))

    assert len(found) == n
    assert len({(name, tuple(labels.items())) for name, labels, _ in found}) == n
    assert answer.scrape is not None
    assert found[:2] == [
        ("requests_total", {}, answer.scrape.requests_total),
        ("tokens_total", {}, answer.scrape.tokens_total),
    ]
    assert all(math.isfinite(value) for _, _, value in found)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 11, 500])
def test_document_has_as_many_samples_as_asked(n: int) -> None:
    """A health document is JSON and carries the samples that were asked for."""
    agent = make(3, samples=n)
    answer = ask(agent)
    document = json.loads(body(answer))

    assert document["status"] == "pass"
    assert sum(len(values) for values in document["checks"].values()) == n
    assert answer.scrape is not None
    assert document["checks"]["agent:requests_total"] == [
        {"observedValue": answer.scrape.requests_total, "observedUnit": "1", "metricType": "counter"}
    ]


def test_both_formats_show_the_same_values() -> None:
    """A scrape has the same numbers as a document and as an exposition."""
    exposition = {
        (name, labels.get("queue", "")): value for name, labels, value in samples(ask(make(4), form=Format.PROMETHEUS))
    }
    document = json.loads(body(ask(make(4), form=Format.HEALTH_JSON)))
    checks = {
        (key.removeprefix("agent:"), value.get("componentId", "")): value["observedValue"]
        for key, values in document["checks"].items()
        for value in values
    }

    assert checks == exposition
    assert checks["process_start_time_seconds", ""] == STARTED_S


def test_histogram_is_valid_and_counts_the_requests() -> None:
    """Buckets rise to the count, which is the number of requests."""
    agent = make(2, samples=10, histogram=True)
    ask(agent)
    answer = ask(agent)
    series = list(samples(answer))
    found = {(name, labels.get("le", "")): value for name, labels, value in series}
    buckets = [value for (name, _), value in found.items() if name == "task_duration_seconds_bucket"]

    assert answer.scrape is not None
    assert len(series) == 16
    assert buckets == sorted(buckets)
    assert found["task_duration_seconds_count", ""] == buckets[-1] == answer.scrape.requests_total


def test_format_goes_by_parity_unless_a_document_is_needed() -> None:
    """Odd agents are polled for documents, even ones for expositions, and those that fail or warn for documents."""
    options = FleetOptions(agents=6, faults="4:fail@10s;6:warn")

    assert [agent.format for agent in build_agents(options)] == [
        Format.HEALTH_JSON,
        Format.PROMETHEUS,
        Format.HEALTH_JSON,
        Format.HEALTH_JSON,
        Format.HEALTH_JSON,
        Format.HEALTH_JSON,
    ]
    assert [agent.path for agent in build_agents(options)][:2] == ["/agents/0001/health", "/agents/0002/metrics"]


def test_counter_reset_restarts_all_counters_once() -> None:
    """At its moment the counters start again from zero, and the start time tells."""
    agent = make(2, "counter_reset@45s")
    before = [ask(agent, t).scrape for t in (10.0, 20.0, 44.9)]
    answer = ask(agent, 45.0)
    after = [answer.scrape, ask(agent, 50.0).scrape]

    assert [(s.resets, s.served) for s in before + after if s is not None] == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]
    assert after[0] == scrape_at(seed=7, number=2, resets=1, served=1)
    assert after[0].requests_total < before[2].requests_total  # type: ignore[union-attr]  # seen to be there above
    assert ("process_start_time_seconds", {}, STARTED_S + 45.0) in list(samples(answer))
    assert (answer.fault, answer.outcome) == ("ok", Outcome.HEALTHY)


@pytest.mark.parametrize(
    ("fault", "status", "outcome", "delivery"),
    [
        ("500s", 500, Outcome.UNHEALTHY, Delivery.WHOLE),
        ("hang", 0, Outcome.TIMEOUT, Delivery.NEVER),
        ("drip", 200, Outcome.TIMEOUT, Delivery.DRIP),
        ("reset", 0, Outcome.ERROR, Delivery.RESET),
        ("garbage", 200, Outcome.UNHEALTHY, Delivery.WHOLE),
        ("huge(5MB)", 200, Outcome.ERROR, Delivery.PADDED),
        ("redirect", 302, Outcome.ERROR, Delivery.WHOLE),
    ],
)
def test_fault_lasts_for_its_phase(fault: str, status: int, outcome: Outcome, delivery: Delivery) -> None:
    """Inside its phase a fault rules, carries no numbers and moves no counter; outside all is well."""
    agent = make(2, f"{fault}@20s-40s")
    found = [ask(agent, t) for t in (19.9, 20.0, 39.9, 40.0)]

    assert [answer.fault for answer in found] == ["ok", fault.partition("(")[0], fault.partition("(")[0], "ok"]
    assert [answer.outcome for answer in found] == [Outcome.HEALTHY, outcome, outcome, Outcome.HEALTHY]
    assert [answer.status for answer in found[1:3]] == [status] * 2
    assert [answer.delivery for answer in found[1:3]] == [delivery] * 2
    assert [answer.scrape and answer.scrape.served for answer in found] == [1, None, None, 2]


@pytest.mark.parametrize(("word", "outcome"), [("fail", Outcome.UNHEALTHY), ("warn", Outcome.DEGRADED)])
def test_document_fault_says_so_with_status_200(word: str, outcome: Outcome) -> None:
    """The trap: everything is in order but the word; at ``/metrics`` there is no word for it."""
    agent = make(2, word)
    answer = ask(agent)
    metrics = ask(agent, form=Format.PROMETHEUS)

    assert (answer.status, answer.outcome, json.loads(body(answer))["status"]) == (200, outcome, word)
    assert (metrics.fault, metrics.outcome) == ("ok", Outcome.HEALTHY)


def test_flap_alternates() -> None:
    """Under ``flap`` answers are well and failing in turn."""
    agent = make(2, "flap(10s)@10s-50s")
    found = [ask(agent, t) for t in (5.0, 15.0, 25.0, 35.0, 45.0, 55.0)]

    assert [answer.status for answer in found] == [200, 200, 503, 200, 503, 200]
    assert [answer.fault for answer in found] == ["ok", "flap", "flap", "flap", "flap", "ok"]
    assert [answer.outcome for answer in found] == [
        Outcome.HEALTHY,
        Outcome.HEALTHY,
        Outcome.UNHEALTHY,
        Outcome.HEALTHY,
        Outcome.UNHEALTHY,
        Outcome.HEALTHY,
    ]


@pytest.mark.parametrize("number", [1, 2])
def test_garbage_is_invalid_and_repeatable(number: int) -> None:
    """No parser reads it, and the same fleet shows the same garbage again."""

    def parse(text: bytes) -> object:
        return json.loads(text) if number % 2 else list(text_string_to_metric_families(text.decode()))

    first, again = make(number, "garbage"), make(number, "garbage")
    found = [body(ask(first)) for _ in range(4)]

    assert [body(ask(again)) for _ in range(4)] == found
    assert len(set(found)) == 3
    for text in found:
        with pytest.raises(ValueError):  # noqa: PT011  # each parser has words of its own
            parse(text)


def test_nan_brings_values_that_must_be_rejected() -> None:
    """Besides the usual samples there are NaN, both infinities and 1e308; a document has what JSON can say."""
    extra = [value for name, _, value in samples(ask(make(2, "nan"))) if name.startswith("bad_")]
    document = json.loads(body(ask(make(1, "nan"))))
    bad = [v["observedValue"] for key, values in document["checks"].items() if key.startswith("bad:") for v in values]

    assert math.isnan(extra[0])
    assert extra[1:] == [math.inf, -math.inf, 1e308]
    assert bad == [math.inf, 1e308, -1e308]
    assert len(document["checks"]["agent:requests_total"]) == 1


def test_dup_brings_one_series_twice() -> None:
    """Besides the usual samples one series is there with two values."""
    twice = [(labels, value) for name, labels, value in samples(ask(make(2, "dup"))) if name == "twice_value"]
    document = json.loads(body(ask(make(1, "dup"))))

    assert twice == [({"id": "a"}, 1.0), ({"id": "a"}, 2.0)]
    assert [v["componentId"] for v in document["checks"]["twice:value"]] == ["a", "a"]


@pytest.mark.parametrize("number", [1, 2])
def test_most_series_fit_the_limit_on_bodies(number: int) -> None:
    """The largest number of series is too many series and not also too many bytes."""
    assert MAX_SERIES * 20 < len(body(ask(make(number, "series")))) < Limits().body_bytes


@pytest.mark.parametrize(
    ("number", "script"), [(2, "series(300)"), (1, "series(300)"), (1, "series(300)@0s-60s;1:fail@60s-90s")]
)
def test_series_brings_that_many(number: int, script: str) -> None:
    """Besides the usual samples there are as many series as asked: an exposition, unless the script needs a document."""
    answer = ask(make(number, script))
    if "fail" in script:
        found = sum(key.startswith("s:") for key in json.loads(body(answer))["checks"])
    else:
        found = sum(name == "many_value" for name, _, _ in samples(answer))

    assert found == 300


def test_redirect_goes_in_a_circle_and_counts_once() -> None:
    """Following the redirects never ends; only the first request of a poll has hop 0."""
    agent = make(2, "redirect@0s-10s")
    path, hops = agent.path, []
    for _ in range(6):
        answer = agent.answer(path, 5.0, STARTED_S)
        hops.append(answer.hop)
        path = answer.data.partition(b"Location: ")[2].partition(b"\r\n")[0].decode()

        assert answer.status == 302
        assert path in agent.paths
    assert hops == [0, 1, 1, 1, 1, 1]
    assert agent.answer(path, 11.0, STARTED_S).hop == 1
    assert agent.answer(agent.path, 11.0, STARTED_S).outcome is Outcome.HEALTHY


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FleetOptions(agents=0), "number of agents is out of range: found 0, expected 1 to 50000"),
        (FleetOptions(samples=1), "number of samples is out of range: found 1, expected 2 to 4000"),
        (FleetOptions(seed=-1), "seed is out of range: found -1"),
        (FleetOptions(name_prefix='a"b'), 'name prefix "a"b" is not usable'),
        (FleetOptions(name_prefix=""), 'name prefix "" is not usable'),
    ],
)
def test_options_out_of_range_are_refused(options: FleetOptions, message: str) -> None:
    """An option that cannot be is named with what was found and expected."""
    with pytest.raises(SettingsError) as caught:
        build_agents(options)

    assert message in str(caught.value)
