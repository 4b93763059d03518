"""
The dictionary of series prefixes against the reference parser, on generated expositions.

The oracle is twofold: ``prometheus_client`` on what is valid, and a reader that has learnt nothing yet on whatever else
an agent may send.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from collector.config import Limits
from collector.prometheus_text import TextReader
from collector.series import Parsed, Series
from storage.model import MAX_ABS_VALUE, Kind

LIMITS = Limits()

Sample = tuple[str, tuple[tuple[str, str], ...], Kind, float]

names = st.from_regex(r"[a-z][a-z0-9]{0,3}_[a-z]{1,3}", fullmatch=True).filter(
    # Suffixes that mean something to the formats are put on by the generator alone.
    lambda name: not name.endswith(("_sum", "_count", "_total", "_bucket", "_created", "_info", "_gsum", "_gcount"))
)
label_names = st.sampled_from(["a", "b", "job", "x_y", "Zz"])
label_values = st.text(
    alphabet=st.one_of(
        st.sampled_from(list('",\\\n{}= #abn')), st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
    ),
    max_size=8,
)
label_sets = st.dictionaries(label_names, label_values, max_size=3)
numbers = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["NaN", "+Inf", "-Inf", "1e308", "0", "1e-3", "+5"]),
)
counts = st.one_of(st.integers(0, 10**9).map(str), st.sampled_from(["0.0", "3.0", "1e+06"]))
timestamps = st.one_of(st.just(""), st.integers(0, 2 * 10**12).map(lambda t: f" {t}"))


def escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def series(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f'{key}="{escape(value)}"' for key, value in labels.items())
    return f"{name}{{{inner}}}" if inner else name


@st.composite
def family(draw: st.DrawFn, *, openmetrics: bool) -> list[str]:
    name = draw(names)
    types = ["counter", "gauge", "histogram", "summary"]
    types += ["unknown", "info", "stateset", "gaugehistogram"] if openmetrics else ["untyped"]
    kind = draw(st.sampled_from(types))
    lines = []
    text_counter = not openmetrics and kind == "counter" and draw(st.booleans())
    shown = f"{name}_total" if text_counter else name
    if draw(st.booleans()):
        lines.append(f"# HELP {shown} {escape(draw(label_values)) or 'x'}")
    lines.append(f"# TYPE {shown} {kind}")
    sets = draw(st.lists(label_sets, max_size=3, unique_by=lambda labels: tuple(sorted(labels.items()))))
    for labels in sets:
        stamp = draw(timestamps) if not openmetrics else ""
        match kind:
            case "counter":
                exemplar = (
                    draw(st.sampled_from(["", ' # {trace_id="a }b"} 0.5', " # {} 1 123.5"])) if openmetrics else ""
                )
                sample = f"{name}_total" if openmetrics or text_counter else name
                lines.append(f"{series(sample, labels)} {draw(counts)}{stamp}{exemplar}")
                if openmetrics and draw(st.booleans()):
                    lines.append(f"{series(name + '_created', labels)} {draw(st.integers(0, 10**9))}")
            case "histogram" | "gaugehistogram":
                n = draw(st.integers(0, 100))
                exemplar = draw(st.sampled_from(["", ' # {trace_id="x"} 0.5 1.5'])) if openmetrics else ""
                lines += [
                    f"{series(name + '_bucket', labels | {'le': le})} {n}{stamp}{exemplar}"
                    for le in ("0.1", "1.0", "+Inf")
                ]
                letter = "g" if kind == "gaugehistogram" else ""
                lines.append(f"{series(f'{name}_{letter}count', labels)} {n}{stamp}")
                lines.append(f"{series(f'{name}_{letter}sum', labels)} {draw(counts)}{stamp}")
            case "summary":
                value = draw(counts) if openmetrics else draw(numbers)
                lines.append(f"{series(name, labels | {'quantile': '0.5'})} {value}{stamp}")
                lines.append(f"{series(name + '_count', labels)} {draw(counts)}{stamp}")
                lines.append(f"{series(name + '_sum', labels)} {draw(counts)}{stamp}")
            case "info":
                lines.append(f"{series(name + '_info', labels)} 1")
            case "stateset":
                lines.append(f"{series(name, labels | {name: 'on'})} {draw(st.sampled_from('01'))}")
            case _:
                lines.append(f"{series(name, labels)} {draw(numbers)}{stamp}")
    return lines


@st.composite
def exposition(draw: st.DrawFn, *, openmetrics: bool) -> str:
    families = draw(
        st.lists(
            family(openmetrics=openmetrics),
            max_size=4,
            unique_by=lambda lines: (
                next(line for line in lines if "# TYPE" in line).split(" ")[2].removesuffix("_total")
            ),
        )
    )
    lines = [line for block in families for line in block]
    if openmetrics:
        lines.append("# EOF")
    return "".join(f"{line}\n" for line in lines)


def samples_of(parsed: Parsed) -> list[Sample]:
    return [(key.name, key.labels, key.kind, value) for key, value in zip(parsed.metrics, parsed.values, strict=True)]


def expected(families: Iterable[Metric], *, openmetrics: bool, shown: str) -> list[Sample]:
    """Return what a full parse means by our rules: kinds, finite values only, each series once, no start times."""
    found: list[Sample] = []
    seen = set()
    for metric in families:
        for sample in metric.samples:
            name = sample.name
            suffix = name[len(metric.name) :]
            if suffix == "_created" and openmetrics:
                continue
            kind = Kind.GAUGE
            if metric.type == "counter":
                kind = Kind.COUNTER
                # The reference adds _total to the counters of the text format; we keep the name that was shown.
                if not openmetrics and f"# TYPE {name} counter" not in shown.split("\n"):
                    name = name.removesuffix("_total")
            elif (metric.type == "histogram" and suffix) or (metric.type == "summary" and suffix):
                kind = Kind.COUNTER
            identity = (name, tuple(sorted(sample.labels.items())))
            if identity in seen:
                continue
            seen.add(identity)
            value = float(sample.value)
            if math.isfinite(value) and abs(value) <= MAX_ABS_VALUE:
                found.append((*identity, kind, value))
    return found


def reader(*, openmetrics: bool) -> TextReader:
    return TextReader(LIMITS, Series(LIMITS), openmetrics=openmetrics)


@settings(max_examples=80, deadline=None)
@given(st.lists(exposition(openmetrics=False), min_size=1, max_size=3))
def test_text_any_valid_exposition_equals_a_full_parse(bodies: list[str]) -> None:
    """Cold or warm, in any sequence of answers, the reader finds what the reference parser finds."""
    warm = reader(openmetrics=False)

    for body in [*bodies, bodies[0]]:
        full = expected(parse_text(body), openmetrics=False, shown=body)
        assert samples_of(warm.parse(body.encode())) == full
        assert samples_of(warm.parse(body.encode())) == full


@settings(max_examples=80, deadline=None)
@given(st.lists(exposition(openmetrics=True), min_size=1, max_size=3))
def test_openmetrics_any_valid_exposition_equals_a_full_parse(bodies: list[str]) -> None:
    """The same for OpenMetrics, exemplars and start times included."""
    warm = reader(openmetrics=True)

    for body in [*bodies, bodies[0]]:
        families = parse_openmetrics(body)  # type: ignore[no-untyped-call]  # the library has no types here
        full = expected(families, openmetrics=True, shown=body)
        assert samples_of(warm.parse(body.encode())) == full
        assert samples_of(warm.parse(body.encode())) == full


#: Fragments that lines are made of, to be put together wrongly.
_FRAGMENTS = [
    b"# TYPE a counter", b"# TYPE a gauge", b"# TYPE a_total counter", b"# HELP a text", b"# TYPE", b"# TYPE b histogram",
    b"# TYPE a_created gauge", b"a_created 5", b"a 1", b"a_total 2", b"a{} 3", b'a{x="1"} 4', b'a{x="1",} 5', b'a{ x = "1" } 6',
    b'a{x="}"} 7', b'a{x="\\"} 8"} 9', b'a{x="1" 10', b"a 1_0", b"a 1 2", b"a 1 2 3", b"a\t5", b" a 6", b"a 7 ", b"a 8\r",
    b'{"a.b"} 1', b'{"a.b",c="d"} 2', b"b_bucket 1", b'b_bucket{le="1"} 1', b'b_bucket{le="1"} 1 # {t="x"} 2', b"a 1 # {} 1",
    b"\xff 1", b'a{x="\xff"} 1', b"", b"   ", b"# EOF", b"#", b"# comment", b'a{x="1",x="2"} 1', b"a nan", b"a +Inf", b"a 1e999",
    b'a{__name__="q"} 1', b'a{__x="q"} 1', b"a{x=\"1 2\"} 3 4", b"-1 2", b"a", b"a ", b'a"b 1', b"a{", b"a}", b"\x00 1",
    b'a{x="\x00"} 1', b"# UNIT a seconds", b'# TYPE "a.b" counter', b"process_start_time_seconds 5", b"a 0x10",
]  # fmt: skip
lines = st.lists(st.one_of(st.sampled_from(_FRAGMENTS), st.binary(max_size=12)), max_size=14).map(b"\n".join)


def facts(parsed: Parsed) -> tuple[object, ...]:
    started = {parsed.metrics[i].name: value for i, value in parsed.created.items()}
    return samples_of(parsed), started, parsed.process_start, parsed.rejected, parsed.error


@settings(max_examples=200, deadline=None)
@given(st.lists(lines, min_size=1, max_size=4), st.booleans())
def test_any_bytes_a_warm_reader_answers_as_a_cold_one(bodies: list[bytes], openmetrics: bool) -> None:
    """What was learnt from earlier answers, valid or not, never changes what a later one means."""
    warm = reader(openmetrics=openmetrics)
    end = b"\n# EOF\n" if openmetrics else b"\n"

    for body in [*bodies, *bodies]:
        assert facts(warm.parse(body + end)) == facts(reader(openmetrics=openmetrics).parse(body + end))


@settings(max_examples=100, deadline=None)
@given(lines, st.booleans())
def test_any_bytes_every_sample_line_is_taken_or_counted(body: bytes, openmetrics: bool) -> None:
    """No line disappears: each that is neither comment nor blank is a sample, a start time or a rejection."""
    parsed = reader(openmetrics=openmetrics).parse(body + (b"\n# EOF\n" if openmetrics else b"\n"))

    text = [line for line in body.split(b"\n") if line.strip() and not line.strip().startswith(b"#")]
    starts = sum(1 for line in text if line.lstrip().startswith(b"a_created"))
    metadata = sum(1 for line in body.split(b"\n") if line.strip().startswith(b"#"))
    accounted = len(parsed.values) + sum(parsed.rejected.values())
    assert len(text) - starts <= accounted <= len(text) + metadata
