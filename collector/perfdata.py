"""
Performance data of Nagios plug-ins: what stands behind the bar in their output.

Source:
    Nagios Plugins Development Guidelines, "Performance data".
"""

from __future__ import annotations

import re
from collections import Counter

from collector.config import Limits
from collector.series import Parsed, Series, refusal
from storage.model import Kind, MetricKey

#: ``'label'=value[unit][;warn[;crit[;min[;max]]]]``; a quote in a label is doubled.
_PERFDATA = re.compile(
    r"\s*(?:'((?:[^'=]|'')+)'|([^\s'=]+))=([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?|U)([a-zA-Z%]*)(?:;\S*)?"
)
_PERFDATA_UNITS = {"B": "By", "KB": "kBy", "MB": "MBy", "GB": "GBy", "TB": "TBy", "c": ""}


class Perfdata:
    """Reads the performance data of Nagios plug-ins: what stands behind ``|`` on a line."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._series = Series(limits)

    def parse(self, output: bytes) -> Parsed:
        """
        Return the gauges, and the counters (unit ``c``), of *output*.

        Values stay in the unit in which they were given. ``U``, an undetermined value, is no sample.
        """
        rejected: Counter[str] = Counter()
        metrics: list[MetricKey] = []
        values: list[float] = []
        seen: set[str] = set()
        first, _, rest = output.decode("utf-8", "replace").partition("\n")
        # Of a longer output, everything behind the second bar is performance data as well.
        data = f"{first.partition('|')[2]} {' '.join(rest.partition('|')[2].split())}".strip()
        while data:
            match = _PERFDATA.match(data)
            if match is None:
                rejected["invalid_line"] += 1
                data = data.partition(" ")[2].strip()
                continue
            data = data[match.end() :].strip()
            name = (match[1] or "").replace("''", "'") or match[2]
            if match[3] == "U":
                continue
            if len(metrics) >= self._limits.samples:
                rejected["too_many_samples"] += 1
                continue
            unit = match[4]
            kind = Kind.COUNTER if unit == "c" else Kind.GAUGE
            key = self._series.intern(name, (), kind, _PERFDATA_UNITS.get(unit, unit))
            value = float(match[3])
            reason = key if isinstance(key, str) else refusal(value)
            if not reason and name in seen:
                reason = "duplicate_series"
            seen.add(name)
            if reason or isinstance(key, str):
                rejected[reason] += 1
                continue
            metrics.append(key)
            values.append(value)
        return Parsed(metrics=self._series.shared(metrics), values=values, rejected=dict(rejected))
