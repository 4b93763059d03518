"""
Health answers in JSON: ``application/health+json``, Spring Boot actuator, and plain ``{"status": …}``.

All three are an object with a ``status``; they differ in their words and in where the parts are (``checks``,
``components``). Numbers become samples: ``observedValue`` of a check, named by the check's key, and the members of
``metrics``, an object of names to numbers that agents of this project's own kind may add. They are gauges; a check with
``"metricType": "counter"`` is a total that only grows.

Source:
    draft-inadarei-api-health-check-06 (``checks``: section 4); Spring Boot's ``/actuator/health``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping

from collector.config import Limits
from collector.series import Parsed, Series, refusal, ucum
from collector.sizes import in_words
from storage.model import Kind, MetricKey, Outcome

#: What the words of the three dialects mean, in lower case. Elasticsearch and its kin say it in colours.
WORDS: Mapping[str, Outcome] = {
    **dict.fromkeys(("pass", "ok", "up", "healthy", "green"), Outcome.HEALTHY),
    # Actuator's UNKNOWN is answered with 200: up, but nobody can say how well.
    **dict.fromkeys(("warn", "warning", "degraded", "yellow", "unknown"), Outcome.DEGRADED),
    **dict.fromkeys(
        ("fail", "error", "down", "unhealthy", "critical", "red", "out_of_service", "out of service"), Outcome.UNHEALTHY
    ),
    # The agent answers but says of itself that it makes no progress.
    "stalled": Outcome.STALLED,
}
#: Bytes of a JSON answer, 200 for each sample that is taken. Reading one holds the interpreter's lock from its first byte
#: to its last, so a thread is no help: up to 45 ms for these, 280 ms for 4 MB of empty lists.
JSON_BYTES = 1024 * 1024
#: Distinct reasons that name parts, of one agent. They become rows of a dictionary table, and an agent may make a new
#: name per poll; after so many, the reason is the status alone.
_REASONS = 50
#: Characters of such a reason that are remembered: more than are left of it after cutting.
_REASON_LENGTH = 800
#: Names of failing parts that a reason quotes; more would only make the dictionary of reasons longer.
_PARTS_QUOTED = 3


class HealthReader:
    """Reads the JSON answers of one agent; keeps its series between polls."""

    def __init__(self, limits: Limits, series: Series) -> None:
        self._limits = limits
        self._series = series
        self._known: dict[tuple[str, str, str, Kind], MetricKey] = {}
        self._reasons: set[str] = set()

    def parse(self, body: bytes, *, strict: bool) -> tuple[Parsed, Outcome | None, str]:
        """
        Read one answer.

        Args:
            strict: The answer claims to be about health, so a status that is missing or not understood is unhealthy;
                otherwise it says nothing.

        Returns:
            The samples; the outcome that the status stands for, ``None`` where it says nothing; the reason.
        """
        if len(body) > JSON_BYTES:
            return Parsed(error=f"json over the limit of {in_words(JSON_BYTES)}", rejected={"body_limit": 1}), None, ""
        try:
            # The standard library takes UTF-8, -16 and -32, which is what JSON may be.
            document = json.loads(body)
        except (ValueError, RecursionError):
            return Parsed(error="invalid json"), None, ""
        if not isinstance(document, dict):
            return Parsed(error="invalid json: not an object" if strict else ""), None, ""
        word = document.get("status")
        outcome = WORDS.get(word.lower()) if isinstance(word, str) else None
        reason = ""
        if outcome is None:
            if strict:
                outcome = Outcome.UNHEALTHY
                reason = "status missing" if word is None else "status not understood"
        elif outcome is not Outcome.HEALTHY:
            reason = self._reason(f"status {str(word).lower()}", list(_failing(document)))
        return self._samples(document), outcome, reason

    def _reason(self, status: str, parts: list[str]) -> str:
        """Return *status* with the first of the failing *parts*, where the agent has not had too many such reasons."""
        if not parts:
            return status
        more = ", …" if len(parts) > _PARTS_QUOTED else ""
        reason = f"{status}: {', '.join(parts[:_PARTS_QUOTED])}{more}"[:_REASON_LENGTH]
        if reason not in self._reasons:
            if len(self._reasons) >= _REASONS:
                return status
            self._reasons.add(reason)
        return reason

    def _samples(self, document: Mapping[str, object]) -> Parsed:
        metrics: list[MetricKey] = []
        values: list[float] = []
        rejected: Counter[str] = Counter()
        # Keys are interned: one object per series, kept for good.
        seen: set[int] = set()
        process_start: float | None = None
        for name, component, unit, kind, number in _numbers(document):
            if len(metrics) >= self._limits.samples:
                rejected["too_many_samples"] += 1
                continue
            key = self._key(name, component, unit, kind)
            if isinstance(key, str):
                rejected[key] += 1
                continue
            value = _finite(number)
            if isinstance(value, str):
                rejected[value] += 1
            elif id(key) in seen:
                rejected["duplicate_series"] += 1
            else:
                seen.add(id(key))
                metrics.append(key)
                values.append(value)
                if not component and name.rpartition(":")[2] == "process_start_time_seconds":
                    process_start = value
        if not metrics:
            return Parsed(rejected=dict(rejected))
        return Parsed(
            metrics=self._series.shared(metrics),
            values=values,
            process_start=process_start,
            rejected=dict(rejected),
        )

    def _key(self, name: str, component: str, unit: str, kind: Kind) -> MetricKey | str:
        key = self._known.get((name, component, unit, kind))
        if key is None:
            labels = [("componentId", component)] if component else []
            found = self._series.intern(name, labels, kind, unit)
            if isinstance(found, str):
                return found
            key = found
            if len(self._known) < 2 * self._limits.series:
                self._known[name, component, unit, kind] = key
        return key


def _numbers(document: Mapping[str, object]) -> Iterator[tuple[str, str, str, Kind, object]]:
    """Yield name, component, unit, kind and raw value of everything that is meant to be a number."""
    metrics = document.get("metrics")
    if isinstance(metrics, dict):
        for name, value in metrics.items():
            yield name, "", "", Kind.GAUGE, value
    for name, check in _checks(document):
        value = check.get("observedValue")
        # The draft allows any JSON value here: a text is a legitimate observation, only not a sample.
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            component, unit = check.get("componentId"), check.get("observedUnit")
            yield (
                name,
                component if isinstance(component, str) else "",
                ucum(unit) if isinstance(unit, str) and len(unit) <= 40 else "",
                # The draft knows no counters and lets a check have members of its own: a total has to say that it
                # is one, for a name like memory_total says nothing.
                Kind.COUNTER if check.get("metricType") == "counter" else Kind.GAUGE,
                value,
            )


def _checks(document: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the key and each element of ``checks``; a lone object stands for a list of one."""
    checks = document.get("checks")
    if isinstance(checks, dict):
        for name, elements in checks.items():
            for element in elements if isinstance(elements, list) else [elements]:
                if isinstance(element, dict):
                    yield name, element


def _failing(document: Mapping[str, object]) -> Iterator[str]:
    """Yield the names of the parts that are not well, once each, in their order."""
    components = document.get("components", document.get("details"))
    parts = list(_checks(document))
    if isinstance(components, dict):
        parts += [(name, part) for name, part in components.items() if isinstance(part, dict)]
    names: dict[str, None] = {}
    for name, part in parts:
        word = part.get("status")
        if isinstance(word, str) and WORDS.get(word.lower(), Outcome.HEALTHY) is not Outcome.HEALTHY:
            names[name] = None
    yield from names


def _finite(number: object) -> float | str:
    """Return *number* as a float that may be stored, or why it may not."""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return "not_a_number"
    try:
        value = float(number)
    except OverflowError:
        return "out_of_range"
    return refusal(value) or value
