"""Reading answers: formats, kinds, limits, what is refused and what survives; real exporters."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info, Summary, start_http_server
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from collector.buffer import Buffer
from collector.config import Limits
from collector.counters import Counters
from collector.exposition import Exposition, Format
from collector.health_json import JSON_BYTES
from collector.probes import Reading, build_probe
from collector.prometheus_text import TextReader
from collector.series import UNIT_LENGTH, Parsed, Series
from storage.batch import decode, encode
from storage.model import AgentSpec, Kind, Outcome, Session

TEXT = b"text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
NASTY = 'say "hi", \\ and\nbye} {x="1"} # 5'


def parse(body: bytes, content_type: bytes = TEXT, limits: Limits | None = None) -> Parsed:
    return Exposition(limits or Limits()).read(body, content_type, good=True).parsed


def names(parsed: Parsed | Reading) -> dict[str, float]:
    return dict(zip((key.name for key in parsed.metrics), parsed.values, strict=True))


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("content_type", "body", "found"),
    [
        (b"", b"# HELP a x\na 1\n", {"a": 1.0}),
        (b"text/plain", b"# TYPE a gauge\na 1\n", {"a": 1.0}),
        (b"text/plain", b"# TYPE a gauge\na 1\n# EOF\n", {"a": 1.0}),
        (b"TEXT/PLAIN; Version=0.0.4", b"a 1\n", {"a": 1.0}),
        (OPENMETRICS, b"a 1\n# EOF\n", {"a": 1.0}),
        (b"application/json", b'{"metrics":{"a":1}}', {"a": 1.0}),
        (b"", b' {"metrics":{"a":1}}', {"a": 1.0}),
        (b"text/plain", b"a 1\n", {}),
        (b"text/html", b"# TYPE a gauge\na 1\n", {}),
    ],
)
def test_format_is_told_by_media_type_then_by_looks(content_type: bytes, body: bytes, found: dict[str, float]) -> None:
    """The media type decides; without a telling one the body's first characters do."""
    assert names(parse(body, content_type)) == found


def test_format_option_outranks_the_media_type() -> None:
    """An agent whose server lies about its type is read as its options say."""
    answer = Exposition(Limits(), Format.PROMETHEUS).read(b"a 1\n", b"text/html", good=True)
    ignored = Exposition(Limits(), Format.NONE).read(b"{", b"application/json", good=True)

    assert names(answer.parsed) == {"a": 1.0}
    assert (ignored.outcome, ignored.reason) == (None, "")


def test_error_page_is_not_held_against_its_format() -> None:
    """The body of an answer with a bad code may be anything; a health document in it still tells why."""
    exposition = Exposition(Limits())

    assert exposition.read(b"<html>", TEXT, good=False).outcome is None
    assert exposition.read(b"<html>", b"application/json", good=False).outcome is None
    assert exposition.read(b'{"status":"down"}', b"application/json", good=False).reason == "status down"


# ---------------------------------------------------------------- kinds and metadata


def test_text_kinds_units_and_descriptions() -> None:
    """Cumulative samples are counters, everything else is a gauge; help and unit travel along."""
    parsed = parse(
        b"# HELP c_seconds_total Time \\\\ spent\n# TYPE c_seconds_total counter\nc_seconds_total 1\n"
        b"# TYPE plain counter\nplain 2\n"
        b'# TYPE h histogram\nh_bucket{le="+Inf"} 3\nh_sum 4\nh_count 5\nh 6\n'
        b'# TYPE s summary\ns{quantile="0.5"} 7\ns_sum 8\ns_count 9\n'
        b"# TYPE g_bytes gauge\ng_bytes 10 1700000000000\nuntyped 11\n"
    )
    kinds = {key.name: key.kind for key in parsed.metrics}
    first = parsed.metrics[0]

    assert {name for name, kind in kinds.items() if kind is Kind.COUNTER} == {
        "c_seconds_total", "plain", "h_bucket", "h_sum", "h_count", "s_sum", "s_count"
    }  # fmt: skip
    assert parsed.values == [float(n) for n in range(1, 12)]
    assert (first.unit, first.description) == ("s", "Time \\ spent")
    assert next(key.unit for key in parsed.metrics if key.name == "g_bytes") == "By"


def test_type_that_changes_between_answers_changes_the_kind() -> None:
    """A known prefix under another type is another series: what was learnt is not believed blindly."""
    exposition = Exposition(Limits())
    kinds = [
        exposition.read(b"# TYPE a %s\na 1\n" % kind, TEXT, good=True).parsed.metrics[0].kind
        for kind in (b"counter", b"gauge", b"counter")
    ]

    assert kinds == [Kind.COUNTER, Kind.GAUGE, Kind.COUNTER]


def test_created_is_no_metric_but_feeds_its_counters() -> None:
    """Start times of both formats belong to the counters of their labels and are not stored themselves."""
    text = (
        b'# TYPE c_total counter\nc_total{x="1"} 1\nc_total{x="2"} 2\n'
        b'# TYPE c_created gauge\nc_created{x="1"} 100\nc_created{x="2"} 200\n'
        b'# TYPE h histogram\nh_bucket{le="1"} 1\nh_bucket{le="+Inf"} 1\nh_count 1\nh_sum 1\n'
        b"# TYPE h_created gauge\nh_created 300\n"
        b"# TYPE lonely_created gauge\nlonely_created 400\n"
    )
    openmetrics = (
        b'# TYPE c counter\nc_total{x="1"} 1\nc_created{x="1"} 100\nc_total{x="2"} 2\nc_created{x="2"} 200\n'
        b'# TYPE h histogram\nh_bucket{le="1"} 1\nh_bucket{le="+Inf"} 1\nh_count 1\nh_sum 1\nh_created 300\n'
        b"# TYPE lonely_created gauge\nlonely_created 400\n# EOF\n"
    )
    for parsed in (parse(text), parse(openmetrics, OPENMETRICS)):
        assert [parsed.created.get(i) for i in range(7)] == [100, 200, 300, 300, 300, 300, None]
        assert [key.name for key in parsed.metrics][-1] == "lonely_created"
        assert len(parsed.metrics) == 7


def test_process_start_is_told() -> None:
    """The start of the process is a gauge like any other, and told apart."""
    body = b"process_start_time_seconds 1.7e9\na 1\n"
    exposition = Exposition(Limits())

    for _ in range(2):
        parsed = exposition.read(body, TEXT, good=True).parsed
        assert parsed.process_start == 1.7e9
        assert names(parsed) == {"process_start_time_seconds": 1.7e9, "a": 1.0}


def test_layout_is_shared_while_series_stay() -> None:
    """The list of metrics and the start times are the same objects in every poll, the values are not."""
    exposition = Exposition(Limits())
    body = b"# TYPE c counter\nc_total %d\nc_created 5\n# TYPE g gauge\ng 1\n# EOF\n"
    first, second, third = (exposition.read(body % n, OPENMETRICS, good=True).parsed for n in range(3))

    assert first.metrics is second.metrics is third.metrics
    assert second.created is third.created
    assert [first.values, second.values, third.values] == [[0, 1], [1, 1], [2, 1]]


def test_openmetrics_exemplars_units_and_end() -> None:
    """Exemplars are read and ignored where they may be; UNIT gives the unit; without # EOF nothing is believed."""
    body = (
        b'# TYPE h_seconds histogram\n# UNIT h_seconds seconds\nh_seconds_bucket{le="+Inf"} 5 # {trace_id="a } b"} 0.5 1.5\n'
        b"h_seconds_sum 2.5\nh_seconds_count 5\n# TYPE g gauge\ng 1 # {} 1\n"
    )
    parsed = parse(body + b"# EOF\n", OPENMETRICS)
    cut = Exposition(Limits()).read(body, OPENMETRICS, good=True)

    assert names(parsed) == {"h_seconds_bucket": 5, "h_seconds_sum": 2.5, "h_seconds_count": 5}
    # A count of observations has no unit, their sum has that of the family.
    assert [key.unit for key in parsed.metrics] == ["", "s", ""]
    assert parsed.rejected == {"invalid_line": 1}
    assert (cut.outcome, cut.reason) == (Outcome.UNHEALTHY, "invalid exposition: no # EOF at its end")
    assert not cut.parsed.metrics


# ---------------------------------------------------------------- refusals


def test_values_that_may_not_be_stored_are_counted() -> None:
    """NaN, infinities and magnitudes over 1e290 are refused by reason, cold and warm, their neighbours stay."""
    body = b"a NaN\nb +Inf\nc -Inf\nd 1e308\ne 1e400\nf -1e290\ng 5\n"
    exposition = Exposition(Limits())

    for _ in range(3):
        parsed = exposition.read(body, TEXT, good=True).parsed
        assert names(parsed) == {"f": -1e290, "g": 5}
        assert parsed.rejected == {"not_finite": 4, "out_of_range": 1}


def test_good_answer_after_a_bad_one_is_whole() -> None:
    """A value that was NaN once is stored as soon as it is a number."""
    exposition = Exposition(Limits())
    exposition.read(b"a 1\nb NaN\n", TEXT, good=True)

    assert names(exposition.read(b"a 1\nb 2\n", TEXT, good=True).parsed) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (b"NaN", "not_finite"),
        (b"1e291", "out_of_range"),
        (b"1_000", "invalid_line"),
        (b"x", "invalid_line"),
        (b"1 2 3", "invalid_line"),
    ],
)
def test_known_series_are_not_trusted_with_their_values(token: bytes, reason: str) -> None:
    """A series that was good in every poll so far is refused in the poll in which its value is not."""
    exposition = Exposition(Limits())
    for _ in range(2):
        exposition.read(b"a 1\nb 2\n", TEXT, good=True)
    parsed = exposition.read(b"a 1\nb %s\n" % token, TEXT, good=True).parsed

    assert names(parsed) == {"a": 1}
    assert parsed.rejected == {reason: 1}


def test_duplicate_series_keep_the_first() -> None:
    """The same series again, also with its labels in another order or of another type, is counted and left out."""
    parsed = parse(b'a{x="1",y="2"} 1\na{y="2",x="1"} 2\na{x="1",y="2",} 3\n# TYPE a counter\na{x="1",y="2"} 4\n')

    assert parsed.values == [1.0]
    assert parsed.rejected == {"duplicate_series": 3}


def test_lines_that_are_not_utf8_do_not_harm_their_neighbours() -> None:
    """Bytes that are no text spoil their own line only."""
    parsed = parse(b'a 1\n\xff\xfe 2\nb{x="\xc3\x28"} 3\n# HELP c \xff\nc 4\n')

    assert names(parsed) == {"a": 1, "c": 4}
    assert parsed.rejected == {"bad_utf8": 3}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"a{%s} 1" % b",".join(b'l%d="x"' % i for i in range(33)), "label_limit"),
        (b"a" * 201 + b" 1", "name_limit"),
        (b'a{%s="x"} 1' % (b"l" * 201), "name_limit"),
        (b'a{x="%s"} 1' % (b"v" * 1025), "value_limit"),
        (b'a{x="%s"} 1' % ("ü".encode() * 513), "value_limit"),
        (b'a{x="\0"} 1', "nul_byte"),
        (b'a{x="%s"} 1' % (b"v" * 200_000), "line_limit"),
        (b"a{x=1} 1", "invalid_line"),
        (b'a{x="1" 1', "invalid_line"),
        (b'a{x="1",x="2"} 1', "invalid_line"),
        (b"a 1_000", "invalid_line"),
        (b"a 1 2 3", "invalid_line"),
        (b"a x", "invalid_line"),
        (b"1a 1", "invalid_line"),
        (b"# TYPE a", "invalid_line"),
    ],
)
def test_each_limit_has_its_reason(line: bytes, reason: str) -> None:
    """A line over a limit is refused by that limit's name, in each poll anew, and its neighbours stay."""
    exposition = Exposition(Limits())

    for _ in range(2):
        parsed = exposition.read(b"ok 1\n" + line + b"\nfine 2\n", TEXT, good=True).parsed
        assert names(parsed) == {"ok": 1, "fine": 2}
        assert parsed.rejected == {reason: 1}


def test_samples_over_the_limit_are_counted() -> None:
    """Of 100,000 series the first 5,000 are taken, the rest is counted, in every poll."""
    body = b"# TYPE m gauge\n" + b"".join(b'm{i="%d"} 1\n' % i for i in range(100_000))
    exposition = Exposition(Limits())

    for _ in range(2):
        parsed = exposition.read(body, TEXT, good=True).parsed
        assert len(parsed.values) == 5_000
        assert parsed.rejected == {"too_many_samples": 95_000}


def test_series_over_the_limit_are_refused_for_good() -> None:
    """An agent that invents labels fills its quota; the series that it had before go on."""
    limits = Limits(series=5)
    exposition = Exposition(limits)
    exposition.read(b"a 1\nb 2\n", TEXT, good=True)
    for n in range(10):
        parsed = exposition.read(b'a 1\nb 2\nc{n="%d"} 3\n' % n, TEXT, good=True).parsed

    assert names(parsed) == {"a": 1, "b": 2}
    assert parsed.rejected == {"too_many_series": 1}


def test_metadata_that_never_repeats_is_forgotten() -> None:
    """Help texts that differ in every poll neither grow the reader nor change its answers."""
    exposition = Exposition(Limits(body_bytes=50_000))
    for n in range(300):
        body = b"# HELP a poll %d\n# TYPE a counter\na %d\n" % (n, n)
        parsed = exposition.read(body, TEXT, good=True).parsed
        assert [(key.kind, value) for key, value in zip(parsed.metrics, parsed.values, strict=True)] == [
            (Kind.COUNTER, float(n))
        ]


@pytest.mark.parametrize("body", [b"", b"\n\n", b"# HELP a x\n# TYPE a gauge\n", b"a NaN\n"])
def test_empty_exposition_is_valid(body: bytes) -> None:
    """Nothing to say is no error."""
    answer = Exposition(Limits()).read(body, TEXT, good=True)

    assert (answer.outcome, answer.reason) == (None, "")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html><body>\n", "invalid exposition: no valid line"),
        (b"\xff\xfe\xfd 1\n\x80 2\n", "invalid exposition: not utf-8"),
        (b"\x1f\x8b\x08\x00 1\n", "invalid exposition: not utf-8"),
        (b"x" * 1_000_000, "invalid exposition: lines over the limit"),
    ],
)
def test_exposition_without_a_valid_line_is_invalid(body: bytes, reason: str) -> None:
    """Garbage is unhealthy, and the reason says of which sort."""
    answer = Exposition(Limits()).read(body, TEXT, good=True)

    assert answer.outcome is Outcome.UNHEALTHY
    assert answer.reason == reason


@pytest.mark.parametrize(
    "line",
    [
        b'a{x="' + b"\\" * 60_000 + b'"} 1',
        b"a{" + b'x="\\"",' * 8_000 + b"} 1",
        b"a{" + b"{" * 60_000 + b"} 1",
        b"{" * 60_000,
        b'a{x="' + b'"' * 60_000 + b" 1",
        b"a" + b" " * 60_000 + b"1 x",
        b'{"' + b'\\"' * 30_000 + b'"} 1',
    ],
)
def test_hostile_lines_are_refused_one_by_one(line: bytes) -> None:
    """Lines made to be taken apart slowly are refused; were that not linear, this would take minutes."""
    parsed = parse((line + b"\n") * 40)

    assert sum(parsed.rejected.values()) == 40


# ---------------------------------------------------------------- real exporters


@pytest.fixture
def exporter() -> Iterator[tuple[int, CollectorRegistry, Counter]]:
    """Run the Python client's own exporter with metrics of every type and labels that bite."""
    registry = CollectorRegistry()
    counter = Counter("jobs", "Jobs done.", ["queue"], registry=registry)
    counter.labels(NASTY).inc(3)
    Gauge("depth_bytes", "Depth\nof it.", ["a", "b"], registry=registry).labels("x,y", "").set(-1.5)
    Histogram("took_seconds", "Time.", registry=registry, buckets=(0.1, 1)).observe(0.5)
    Summary("size", "Size.", registry=registry).observe(7)
    Info("build", "Build.", registry=registry).info({"version": "1"})
    Enum("phase", "Phase.", states=["up", "down"], registry=registry).state("down")
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        yield server.server_port, registry, counter
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def polls(endpoint: str, n: int, **options: object) -> list[Reading]:
    """Return the readings of *n* polls of *endpoint*."""

    async def main() -> list[Reading]:
        probe = build_probe(AgentSpec(name="a", endpoint=endpoint, options=options), credentials={}, limits=Limits())
        try:
            return [await probe.poll(10) for _ in range(n)]
        finally:
            await probe.aclose()

    return asyncio.run(main())


@pytest.mark.parametrize("form", ["auto", "prometheus"])
def test_python_exporter_is_read_in_both_formats(exporter: tuple[int, CollectorRegistry, Counter], form: str) -> None:
    """Everything that the client library exposes arrives, with kinds, start times and labels as they were."""
    port, _, _ = exporter
    first, second = polls(f"http://127.0.0.1:{port}/metrics", 2, format=form)
    found = {(key.name, key.labels): (key.kind, value) for key, value in zip(first.metrics, first.values, strict=True)}

    assert (first.outcome, first.reason, first.rejected) == (Outcome.HEALTHY, "", {})
    assert found["jobs_total", (("queue", NASTY),)] == (Kind.COUNTER, 3.0)
    assert found["depth_bytes", (("a", "x,y"), ("b", ""))] == (Kind.GAUGE, -1.5)
    assert found["took_seconds_bucket", (("le", "1.0"),)] == (Kind.COUNTER, 1.0)
    assert found["size_sum", ()] == (Kind.COUNTER, 7.0)
    assert found["build_info", (("version", "1"),)] == (Kind.GAUGE, 1.0)
    assert found["phase", (("phase", "down"),)] == (Kind.GAUGE, 1.0)
    assert not any(name.endswith("_created") for name, _ in found)
    assert {first.metrics[i].name for i in first.created} == {
        "jobs_total", "took_seconds_bucket", "took_seconds_sum", "took_seconds_count", "size_sum", "size_count"
    }  # fmt: skip
    assert all(abs(value - time.time()) < 60 for value in first.created.values())
    assert second.metrics is first.metrics


def test_python_exporter_counter_born_between_polls_is_counted_whole(
    exporter: tuple[int, CollectorRegistry, Counter],
) -> None:
    """A label that appears between two polls brings its value as increase, because its start time proves it."""
    port, _, counter = exporter
    counters = Counters()

    async def main() -> tuple[dict[str, float], dict[str, float]]:
        spec = AgentSpec(name="a", endpoint=f"http://127.0.0.1:{port}/metrics")
        probe = build_probe(spec, credentials={}, limits=Limits())
        found = []
        for n in range(2):
            metrics, values = counters.deltas(await probe.poll(10))
            found.append({str(key.labels): value for key, value in zip(metrics, values, strict=True)})
            counter.labels("new").inc(5 + n)
        await probe.aclose()
        return found[0], found[1]

    first, second = asyncio.run(main())

    assert "(('queue', 'new'),)" not in first
    assert second["(('queue', 'new'),)"] == 5.0


def test_openmetrics_of_the_python_client_is_read_as_served() -> None:
    """What the client library writes with UTF-8 names and exemplars is read without a refusal."""
    registry = CollectorRegistry()
    Gauge("my_gauge", "G.", ["l"], registry=registry).labels(NASTY).set(1)
    Counter("hits", "H.", registry=registry).inc(2, {"trace_id": 'x} "y'})
    body = generate_openmetrics(registry)  # type: ignore[no-untyped-call]  # the library has no types here
    parsed = parse(body, OPENMETRICS)

    assert parsed.rejected == {}
    assert names(parsed) == {"my_gauge": 1.0, "hits_total": 2.0}


@contextmanager
def node_exporter() -> Iterator[str]:
    """Run Debian's node exporter on a free port."""
    program = shutil.which("prometheus-node-exporter")
    if program is None:
        pytest.skip("prometheus-node-exporter is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [program, f"--web.listen-address=127.0.0.1:{port}", "--collector.disable-defaults", "--collector.cpu",
         "--collector.meminfo", "--collector.netdev", "--collector.loadavg", "--collector.stat"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        # It says so when it listens.
        assert process.stderr is not None
        for line in process.stderr:
            if b"istening on" in line or b"TLS is disabled" in line:
                break
        yield f"http://127.0.0.1:{port}/metrics"
    finally:
        process.terminate()
        if process.stderr is not None:
            process.stderr.close()
        process.wait(10)


def test_node_exporter_is_read_without_a_refusal() -> None:
    """A real exporter written in Go: hundreds of series, none refused but those that are NaN, restart detectable."""
    with node_exporter() as url:
        deadline = time.monotonic() + 10
        first, second = polls(url, 2)
        while first.outcome is Outcome.REFUSED and time.monotonic() < deadline:
            first, second = polls(url, 2)
        with urllib.request.urlopen(url, timeout=10) as answer:
            served = sum(1 for line in answer if not line.startswith(b"#"))

    counters = Counters()
    counters.deltas(first)
    _, values = counters.deltas(second)
    assert (first.outcome, first.reason) == (Outcome.HEALTHY, "")
    assert set(first.rejected) <= {"not_finite"}
    assert len(first.metrics) + sum(first.rejected.values()) in range(served - 5, served + 6)
    assert first.process_start is not None
    assert "node_load1" in names(first)
    assert all(value >= 0 for value in values[:50])


# ---------------------------------------------------------------- hostile agents


def _health_unit(unit: str) -> bytes:
    return json.dumps({"status": "pass", "checks": {"x": [{"observedValue": 1, "observedUnit": unit}]}}).encode()


@pytest.mark.parametrize(
    ("content_type", "body", "unit"),
    [
        (b"application/health+json", _health_unit("a\0"), "a"),
        (b"application/health+json", _health_unit("\ud800"), ""),
        (b"application/health+json", _health_unit("m\x1b[31m\u0085\n"), "m[31m"),
        (b"application/health+json", _health_unit("°C"), "°C"),
        (OPENMETRICS, b"# TYPE x gauge\n# UNIT x a\0b\nx 1\n# EOF\n", "ab"),
        (OPENMETRICS, b"# TYPE x gauge\n# UNIT x " + b"z" * 1_100_000 + b"\nx 1\n# EOF\n", "z" * UNIT_LENGTH),
    ],
)
def test_unit_of_one_agent_does_not_spoil_the_batch_of_all(content_type: bytes, body: bytes, unit: str) -> None:
    """A unit that no database takes is cleaned, and the batch that it travels in stays valid."""
    parsed = parse(body, content_type)
    session = Session(uuid=str(uuid4()), name="x", host="h", pid=1, version="1", started_at=datetime.now(UTC))
    buffer = Buffer()
    buffer.add("good", 1_790_000_000_000_000, 0, 0.1, 1.0, 200, "")
    buffer.add("bad", 1_790_000_000_000_000, 0, 0.1, 1.0, 200, "", parsed.metrics, parsed.values)
    (pending,) = buffer.take(0)
    decode(encode(pending.numbered(uuid4(), 1, session))).validate()

    assert [key.unit for key in parsed.metrics] == [unit]


def test_openmetrics_names_that_never_repeat_are_forgotten() -> None:
    """An agent whose names are new in each answer, without metadata, fills its quota and no more memory than that."""
    limits = Limits(samples=10, series=20)
    reader = TextReader(limits, Series(limits), openmetrics=True)
    sizes = []
    for poll in range(100):
        body = b"".join(b"m_%d_%d 1\n" % (poll, i) for i in range(10)) + b"# EOF\n"
        parsed = reader.parse(body)
        sizes.append(len(reader._families))
        assert len(parsed.metrics) + sum(parsed.rejected.values()) == 10

    assert max(sizes) <= 60


def test_openmetrics_metadata_of_every_sample_is_kept() -> None:
    """An answer at the limit of samples, each with three lines of metadata, is learnt once."""
    limits = Limits(samples=10, series=20)
    reader = TextReader(limits, Series(limits), openmetrics=True)
    metadata = "# TYPE m{i}_seconds gauge\n# UNIT m{i}_seconds seconds\n# HELP m{i}_seconds x\nm{i}_seconds 1\n"
    body = ("".join(metadata.replace("{i}", str(i)) for i in range(10)) + "# EOF\n").encode()
    reader.parse(body)
    families = reader._families
    for _ in range(3):
        assert len(reader.parse(body).metrics) == 10

    assert reader._families is families


def test_health_reasons_of_one_agent_are_bounded() -> None:
    """Names of parts that differ from poll to poll make fifty reasons; after that the status alone is told."""
    reader = Exposition(Limits())

    def reason(part: str) -> str:
        body = json.dumps({"status": "fail", "checks": {part: {"status": "fail"}}}).encode()
        return reader.read(body, b"application/health+json", good=True).reason

    found = [reason(f"task-{k}") for k in range(200)]

    assert len(set(found)) == 51
    assert found[0] == "status fail: task-0"
    assert found[-1] == "status fail"
    assert reason("task-7") == "status fail: task-7"


def test_json_over_its_limit_is_refused() -> None:
    """JSON that would hold the interpreter's lock for long is not read, and the reason says so; at the limit it is."""
    body = b'{"status":"pass","metrics":{"a":1}}'
    reader = Exposition(Limits())
    at, over = (reader.read(body.ljust(n), b"application/health+json", good=True) for n in (JSON_BYTES, JSON_BYTES + 1))

    assert (at.outcome, names(at.parsed)) == (Outcome.HEALTHY, {"a": 1.0})
    assert (over.outcome, over.reason) == (Outcome.UNHEALTHY, "json over the limit of 1 MiB")
    assert (list(over.parsed.metrics), over.parsed.rejected) == ([], {"body_limit": 1})


def test_health_duplicates_are_refused() -> None:
    """The second value of one series in an answer is counted, not stored."""
    check = [{"observedValue": 1}, {"observedValue": 2}]
    parsed = parse(json.dumps({"status": "pass", "checks": {"x": check}}).encode(), b"application/health+json")

    assert (parsed.values, parsed.rejected) == ([1.0], {"duplicate_series": 1})
