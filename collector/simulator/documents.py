"""
The bodies that simulated agents answer with: health documents, expositions, and what is wrong with them.
"""

from __future__ import annotations

import random
from enum import StrEnum
from functools import lru_cache

from collector.simulator.values import Scrape, gauge

#: Fewest samples of an answer: the two counters.
MIN_SAMPLES = 2
#: Most samples of an answer: far more than real exporters have, and still well within the collector's limits.
MAX_SAMPLES = 4_000
#: Series that a histogram adds to an exposition.
HISTOGRAM_SAMPLES = 6


class Format(StrEnum):
    """What an agent is polled for."""

    #: ``application/health+json`` (draft-inadarei-api-health-check), at ``/health``.
    HEALTH_JSON = "health+json"
    #: Prometheus text exposition 0.0.4, at ``/metrics``.
    PROMETHEUS = "prometheus"

    @property
    def content_type(self) -> str:
        """Return the value of the ``Content-Type`` header."""
        return "application/health+json" if self is Format.HEALTH_JSON else "text/plain; version=0.0.4; charset=utf-8"

    @property
    def path(self) -> str:
        """Return the last part of the path at which agents answer in this format."""
        return "health" if self is Format.HEALTH_JSON else "metrics"


#: Name, label (Prometheus only), how it is printed, unit, help; further samples are numbered gauges.
_GAUGES = (
    ("process_start_time_seconds", "", b"%.2f", "s", "Start of the agent, in seconds since the Unix epoch."),
    ("queue_depth", '{queue="in"}', b"%d", "1", "Requests that wait."),
    ("queue_depth", '{queue="out"}', b"%d", "1", "Requests that wait."),
    ("busy_workers", "", b"%d", "1", "Workers that have something to do."),
    ("memory_bytes", "", b"%d", "By", "Memory in use."),
    ("temperature_celsius", "", b"%.2f", "Cel", "Temperature of the accelerator."),
    ("load_ratio", "", b"%.4f", "1", "Part of the time in which the agent was busy."),
    ("last_task_seconds", "", b"%.3f", "s", "Duration of the task that ended last."),
)
_COUNTERS = (("requests_total", "Requests handled."), ("tokens_total", "Tokens produced."))


class Writer:
    """Writes the documents of a fleet; all its agents share one."""

    def __init__(self, *, samples: int, histogram: bool) -> None:
        """
        Prepare the templates.

        Args:
            samples: Samples of each answer, those of the histogram apart.
            histogram: Add a histogram to expositions.
        """
        # A body is one ``%`` on a prepared template: 3 µs for ten samples, where putting it together costs 15.
        self._exposition = _exposition_template(samples, histogram=histogram)
        self._document = _document_template(samples)
        self._gauges = samples - MIN_SAMPLES
        self._histogram = histogram

    def body(
        self, form: Format, scrape: Scrape, *, started_s: float, status: bytes = b"pass", extra: bytes = b""
    ) -> bytes:
        """
        Return one answer.

        Args:
            form: Exposition or health document.
            scrape: Its numbers.
            started_s: When the agent (re)started, in seconds since the Unix epoch.
            status: What a health document says; an exposition has no word for it.
            extra: Further samples, made by ``nan``, ``dup`` or ``series`` for the same format.
        """
        values = self.gauges(scrape, started_s)
        if form is Format.HEALTH_JSON:
            return self._document % (status, scrape.requests_total, scrape.tokens_total, *values, extra)
        if self._histogram:
            values += histogram(scrape)
        return self._exposition % (scrape.requests_total, scrape.tokens_total, *values) + extra

    def gauges(self, scrape: Scrape, started_s: float) -> tuple[float, ...]:
        """Return the values of the gauges of *scrape*, in the order of the answer."""
        noise = scrape.noise
        first = (
            started_s,
            gauge(noise, 1, 50),
            gauge(noise, 2, 20),
            gauge(noise, 3, 9),
            100_000_000 + gauge(noise, 4, 65536) * 4096,
            30 + gauge(noise, 5, 5_000) / 100,
            gauge(noise, 6, 10_001) / 10_000,
            gauge(noise, 7, 60_000) / 1_000,
        )
        if self._gauges <= len(first):
            return first[: self._gauges]
        return first + tuple(gauge(noise, place, 1_000) for place in range(len(first), self._gauges))


def histogram(scrape: Scrape) -> tuple[float, ...]:
    """Return buckets ``le`` 0.1, 1, 10, +Inf, the sum and the count; its count is ``requests_total``."""
    n = scrape.requests_total
    return (n // 2, n // 2 + n // 4, n // 2 + n // 4 + n // 8, n, n * 0.75, n)


def _exposition_template(samples: int, *, histogram: bool) -> bytes:
    lines: list[str] = []
    for name, text in _COUNTERS:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} counter", f"{name} %d"]
    described = ""
    for name, label, form, _, text in _GAUGES[: samples - MIN_SAMPLES]:
        if name != described:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
            described = name
        lines.append(f"{name}{label} {form.decode()}")
    extra = range(len(_GAUGES), samples - MIN_SAMPLES)
    if extra:
        lines += ["# HELP spare_value Nothing in particular.", "# TYPE spare_value gauge"]
        lines += [f'spare_value{{place="{place}"}} %d' for place in extra]
    if histogram:
        name = "task_duration_seconds"
        lines += [f"# HELP {name} Duration of tasks.", f"# TYPE {name} histogram"]
        lines += [f'{name}_bucket{{le="{bound}"}} %d' for bound in ("0.1", "1", "10", "+Inf")]
        lines += [f"{name}_sum %.2f", f"{name}_count %d"]
    return "\n".join([*lines, ""]).encode()


def _document_template(samples: int) -> bytes:
    checks: dict[str, list[str]] = {
        f"agent:{name}": ['{"observedValue":%d,"observedUnit":"1","metricType":"counter"}'] for name, _ in _COUNTERS
    }
    for name, label, form, unit, _ in _GAUGES[: samples - MIN_SAMPLES]:
        part = f'"componentId":{label.partition("=")[2].removesuffix("}")},' if label else ""
        value = f'{{{part}"observedValue":{form.decode()},"observedUnit":"{unit}"}}'
        checks.setdefault(f"agent:{name}", []).append(value)
    for place in range(len(_GAUGES), samples - MIN_SAMPLES):
        checks.setdefault("agent:spare_value", []).append(f'{{"componentId":"{place}","observedValue":%d}}')
    body = ",".join(f'"{key}":[{",".join(values)}]' for key, values in checks.items())
    return f'{{"status":"%s","version":"1","description":"simulated agent","checks":{{{body}%s}}}}'.encode()


def nan(form: Format) -> bytes:
    """Return samples that must be rejected, by value: four of an exposition, three of a health document."""
    if form is Format.HEALTH_JSON:
        # JSON has no word for NaN; 1e999 is valid and reads as infinity.
        return b',"bad:infinite":[{"observedValue":1e999}],"bad:big":[{"observedValue":1e308}],"bad:small":[{"observedValue":-1e308}]'
    return b"bad_nan NaN\nbad_infinite +Inf\nbad_negative_infinite -Inf\nbad_big 1e308\n"


def dup(form: Format) -> bytes:
    """Return one series twice, with the values 1 and 2: one of them must be rejected."""
    if form is Format.HEALTH_JSON:
        return b',"twice:value":[{"componentId":"a","observedValue":1},{"componentId":"a","observedValue":2}]'
    return b'# TYPE twice_value gauge\ntwice_value{id="a"} 1\ntwice_value{id="a"} 2\n'


@lru_cache(maxsize=16)
def series(form: Format, n: int) -> bytes:
    """Return *n* series of value 1; kept, because many agents may show the same megabytes."""
    if form is Format.HEALTH_JSON:
        return "".join(f',"s:{i}":[{{"observedValue":1}}]' for i in range(n)).encode()
    return "".join(("# TYPE many_value gauge\n", *(f'many_value{{i="{i}"}} 1\n' for i in range(n)))).encode()


def garbage(form: Format, *, seed: int, number: int, nth: int) -> bytes:
    """Return a body that is no valid *form*: random bytes, or every other time a document cut short."""
    if nth % 2:
        # The first byte is in no UTF-8 text.
        return b"\xff" + random.Random(f"{seed}/{number}/{nth}").randbytes(400)
    return b'{"status":"pass","checks":{"agent' if form is Format.HEALTH_JSON else b'requests_total{agent="de'
