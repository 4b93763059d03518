"""
What an agent's answer says: the body of a response to outcome, samples and refusals.

The format is told by the agent's ``format`` option or, where that is ``auto``, by the media type; a body without a
telling media type is looked at. One object per agent, because what was learnt in one poll makes the next one cheap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from collector.config import Limits
from collector.health_json import HealthReader
from collector.prometheus_text import TextReader
from collector.series import Parsed, Series
from storage.model import Outcome


class Format(StrEnum):
    """What a body is read as."""

    #: By the media type, and by the looks of the body where that says nothing.
    AUTO = "auto"
    #: ``application/health+json`` of draft-inadarei-api-health-check.
    HEALTH = "health+json"
    #: Prometheus text 0.0.4.
    PROMETHEUS = "prometheus"
    #: OpenMetrics 1.0 text.
    OPENMETRICS = "openmetrics"
    #: Spring Boot's ``/actuator/health``.
    ACTUATOR = "actuator"
    #: Any JSON object with a ``status`` of one word.
    STATUS = "status"
    #: Not at all: the HTTP code alone counts.
    NONE = "none"


@dataclass(slots=True, kw_only=True)
class Answer:
    """A body, understood."""

    #: What the body says of the agent's health; ``None`` where it says nothing.
    outcome: Outcome | None = None
    #: Why, where it is not well.
    reason: str = ""
    parsed: Parsed = field(default_factory=Parsed)


class Exposition:
    """Reads the answers of one agent."""

    def __init__(self, limits: Limits, format: Format = Format.AUTO) -> None:
        self._limits = limits
        self._format = format
        self._series = Series(limits)
        self._text: TextReader | None = None
        self._openmetrics: TextReader | None = None
        self._health: HealthReader | None = None
        # The media type hardly ever changes between polls.
        self._media_type: bytes | None = None
        self._media_format = Format.AUTO

    def read(self, body: bytes, content_type: bytes, *, good: bool) -> Answer:
        """
        Read a body.

        Args:
            content_type: Value of the header, empty where there was none.
            good: The HTTP code was an expected one. A health body of a bad answer is read all the same, for it says
                why; an error page is not held against its format.
        """
        found = self._format
        if found is Format.AUTO:
            if content_type != self._media_type:
                self._media_type, self._media_format = content_type, _by_media_type(content_type)
            found = self._media_format
            if found is Format.AUTO:
                found = _by_looks(body)
        if found is Format.NONE:
            return Answer()
        if found in (Format.PROMETHEUS, Format.OPENMETRICS):
            if not good:
                return Answer()
            parsed = self._reader(found).parse(body)
            if parsed.error:
                return Answer(outcome=Outcome.UNHEALTHY, reason=parsed.error, parsed=parsed)
            return Answer(parsed=parsed)
        if self._health is None:
            self._health = HealthReader(self._limits, self._series)
        # STATUS that was only inferred (plain application/json) is no claim to be about health.
        claims = found in (Format.HEALTH, Format.ACTUATOR) or self._format is Format.STATUS
        parsed, outcome, reason = self._health.parse(body, strict=claims)
        if parsed.error:
            return Answer(outcome=Outcome.UNHEALTHY, reason=parsed.error, parsed=parsed) if good else Answer()
        return Answer(outcome=outcome, reason=reason, parsed=parsed)

    def _reader(self, format: Format) -> TextReader:
        if format is Format.OPENMETRICS:
            if self._openmetrics is None:
                self._openmetrics = TextReader(self._limits, self._series, openmetrics=True)
            return self._openmetrics
        if self._text is None:
            self._text = TextReader(self._limits, self._series, openmetrics=False)
        return self._text


def _by_media_type(content_type: bytes) -> Format:
    """Return the format that a media type stands for, ``AUTO`` where it stands for none."""
    media, _, parameters = content_type.lower().partition(b";")
    media = media.strip()
    if media in (b"application/health+json", b"application/vnd.health+json"):
        return Format.HEALTH
    if media.startswith(b"application/vnd.spring-boot.actuator") and media.endswith(b"json"):
        return Format.ACTUATOR
    if media == b"application/json" or media.endswith(b"+json"):
        return Format.STATUS
    if media == b"application/openmetrics-text":
        return Format.OPENMETRICS
    # prometheus_client writes version=1.0.0 where it was not asked for UTF-8 names, a web server no version at all.
    if media == b"text/plain" and b"version=" in parameters:
        return Format.PROMETHEUS
    return Format.AUTO if media in (b"", b"text/plain", b"application/octet-stream") else Format.NONE


def _by_looks(body: bytes) -> Format:
    """Return the format that a body of no telling media type looks like."""
    start = body[:64].lstrip()
    if start.startswith((b"# HELP ", b"# TYPE ", b"# UNIT ")):
        return Format.OPENMETRICS if body.rstrip().endswith(b"# EOF") else Format.PROMETHEUS
    return Format.STATUS if start.startswith(b"{") else Format.NONE
