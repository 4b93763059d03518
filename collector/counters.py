"""
Counters to increases: what is stored of a counter is how much it grew since the poll before.

One object per agent holds the last cumulative values, its *baselines*. ``deltas`` is called once for every answer that
is accepted, and moves the baselines; what it returned and what ``export_values`` then gives belong in one transaction
of the spool. So there is nothing to roll back: after a crash both are there or neither is.

When is a smaller-or-not value a new start? By the rules, in this order:

1. The counter's own start time (``_created``) changed: it starts anew, and its value is its increase.
2. The process started later than before *and* after the previous poll, give or take ``CLOCK_SKEW_S``: all counters
   start anew. The second condition matters: exporters work their start time out of the boot time, which jumps when
   somebody sets the clock, and believing that would count every total once more.
3. The value is smaller than before: it starts anew.
4. Otherwise the increase is the difference.

A counter that was never seen has no increase, only a baseline: what it counted before is not known to have happened
since the previous poll. Where its start time says that it has, the value is the increase.
"""

from __future__ import annotations

import json
import math
import struct
from array import array
from collections.abc import Mapping, Sequence

from collector.probes.reading import Reading
from collector.series import NO_CREATED
from storage.errors import BatchError
from storage.model import MAX_ABS_VALUE, Kind, MetricKey

#: How far an agent's clock may be behind this machine's for its restart to be believed.
CLOCK_SKEW_S = 300.0
#: Start times that are computed from the boot time jitter by a second.
_START_JITTER_S = 2.0

_NONE: frozenset[int] = frozenset()

#: Version of both encodings; another one is another baseline.
_VERSION = 1
#: Version, whether start times follow, number of counters, version of the keys, previous poll, process start.
_HEAD = struct.Struct("<BBxxIIdd")


class Counters:
    """
    Baselines of one agent's counters.

    Args:
        max_keys: Counters kept; past it, those that the answer at hand does not have are forgotten.
    """

    def __init__(self, max_keys: int = 20_000) -> None:
        self._max_keys = max_keys
        self._keys: list[MetricKey] = []
        self._slots: dict[MetricKey, int] = {}
        #: Last cumulative value and start time by slot; NaN for none.
        self._last: list[float] = []
        self._started: list[float] = []
        #: When the previous answer with metrics came, Unix seconds.
        self._at_s = math.nan
        self._process_start = math.nan
        #: Grows whenever the keys change: the keys need storing again only then.
        self.keys_version = 0
        # The layout that the poll before had: the list itself, and where its counters are.
        self._layout: Sequence[MetricKey] | None = None
        self._places: list[tuple[int, int]] = []
        self._created: Mapping[int, float] = NO_CREATED

    def __len__(self) -> int:
        return len(self._keys)

    def deltas(self, reading: Reading) -> tuple[Sequence[MetricKey], list[float]]:
        """
        Return the samples to store: gauges as they are, counters as increases; move the baselines.

        Where every metric has a sample, the first list is ``reading.metrics`` itself. Samples that cannot be
        stored are counted in ``reading.rejected``; a first sight is no rejection.
        """
        metrics = reading.metrics
        if not metrics:
            return metrics, []
        if metrics is not self._layout:
            self._learn(metrics)
        restarted = self._has_restarted(reading)
        values = reading.values
        if self._places:
            fresh = _NONE
            if restarted or reading.created is not self._created:
                fresh = self._fresh_slots(reading, restarted=restarted)
            values = values.copy()
            dropped: list[int] = []
            last = self._last
            for position, slot in self._places:
                value = values[position]
                # A first sight has NaN for its baseline, which compares as false.
                delta = value - last[slot]
                if fresh and slot in fresh:
                    delta = value
                elif not delta >= 0.0:
                    if math.isnan(last[slot]):
                        dropped.append(position)
                    delta = value
                if value < 0.0:
                    self._refuse(reading, position, dropped, "negative_counter")
                    continue
                if not delta <= MAX_ABS_VALUE:
                    self._refuse(reading, position, dropped, "out_of_range" if math.isfinite(value) else "not_finite")
                    continue
                values[position] = delta
                last[slot] = value
            self._remember(reading)
            if dropped:
                gone = set(dropped)
                kept = [i for i in range(len(metrics)) if i not in gone]
                return [metrics[i] for i in kept], [values[i] for i in kept]
        else:
            self._remember(reading)
        return metrics, values

    def _refuse(self, reading: Reading, position: int, dropped: list[int], reason: str) -> None:
        # The baseline stays: what a refused value stood for is in the next difference.
        reading.rejected[reason] = reading.rejected.get(reason, 0) + 1
        if not dropped or dropped[-1] != position:
            dropped.append(position)

    def _remember(self, reading: Reading) -> None:
        self._created = reading.created
        if not math.isnan(reading.at_s):
            self._at_s = reading.at_s
        if reading.process_start is not None:
            self._process_start = reading.process_start

    def _has_restarted(self, reading: Reading) -> bool:
        """Tell whether the process behind the counters is a later one than at the poll before."""
        start = reading.process_start
        if start is None:
            return False
        if math.isnan(self._process_start):
            return start > self._at_s
        return start > self._process_start + _START_JITTER_S and not start < self._at_s - CLOCK_SKEW_S

    def _fresh_slots(self, reading: Reading, *, restarted: bool) -> frozenset[int]:
        """Return the slots whose value is all increase, and take note of the start times."""
        fresh = set()
        for position, slot in self._places:
            created = reading.created.get(position, math.nan)
            seen = not math.isnan(self._last[slot])
            if restarted:
                fresh.add(slot)
            elif not math.isnan(created):
                before = self._started[slot]
                if seen and not math.isnan(before):
                    if created != before:
                        fresh.add(slot)
                elif not seen and created > self._at_s:
                    fresh.add(slot)
            if not math.isnan(created):
                self._started[slot] = created
        return frozenset(fresh)

    def _learn(self, metrics: Sequence[MetricKey]) -> None:
        """Find the counters of a list of metrics that differs from the one before."""
        new = [key for key in metrics if key.kind is Kind.COUNTER and key not in self._slots]
        if new:
            if len(self._keys) + len(new) > self._max_keys:
                self._keep_only(metrics)
            for key in new:
                self._slots[key] = len(self._keys)
                self._keys.append(key)
                self._last.append(math.nan)
                self._started.append(math.nan)
            self.keys_version += 1
        self._places = [(i, self._slots[key]) for i, key in enumerate(metrics) if key.kind is Kind.COUNTER]
        self._layout = metrics
        # Its indices were those of the list before.
        self._created = NO_CREATED

    def _keep_only(self, metrics: Sequence[MetricKey]) -> None:
        present = set(metrics)
        slots = [slot for slot, key in enumerate(self._keys) if key in present]
        self._keys = [self._keys[slot] for slot in slots]
        self._last = [self._last[slot] for slot in slots]
        self._started = [self._started[slot] for slot in slots]
        self._slots = {key: slot for slot, key in enumerate(self._keys)}

    # ---------------------------------------------------------------- durable form

    def export_keys(self) -> bytes:
        """Return the counters that the values of ``export_values`` belong to; changes only with ``keys_version``."""
        rows = [[key.name, key.labels, key.unit, key.description] for key in self._keys]
        document = {"format": _VERSION, "version": self.keys_version, "keys": rows}
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")

    def export_values(self) -> bytes:
        """Return the baselines of now: a head of 28 bytes, a float64 per counter, one more with start times."""
        started = not all(map(math.isnan, self._started))
        head = _HEAD.pack(_VERSION, started, len(self._last), self.keys_version, self._at_s, self._process_start)
        body = array("d", self._last).tobytes()
        return head + body + array("d", self._started).tobytes() if started else head + body

    def export(self) -> bytes:
        """Return keys and values in one piece."""
        keys = self.export_keys()
        return len(keys).to_bytes(4, "little") + keys + self.export_values()

    @classmethod
    def load(cls, data: bytes, max_keys: int = 20_000) -> Counters:
        """
        Return the counters that ``export`` wrote.

        Raises:
            BatchError: Not such a piece, of another format, or cut short.
        """
        size = int.from_bytes(data[:4], "little")
        return cls.load_parts(data[4 : 4 + size], data[4 + size :], max_keys)

    @classmethod
    def load_parts(cls, keys: bytes, values: bytes, max_keys: int = 20_000) -> Counters:
        """
        Return the counters whose keys and values were stored apart.

        Raises:
            BatchError: Damaged, of another format, or keys and values are not of the same version.
        """
        counters = cls(max_keys)
        try:
            document = json.loads(keys.decode("utf-8", "surrogatepass"))
            form, started, n, version, at_s, process_start = _HEAD.unpack_from(values)
            found = (document["format"], form)
            if found != (_VERSION, _VERSION):
                raise BatchError(f"counter baselines are of formats {found}, expected {_VERSION}: start without them")
            counters._keys = [
                MetricKey(
                    name=name,
                    labels=tuple((k, v) for k, v in labels),
                    kind=Kind.COUNTER,
                    unit=unit,
                    description=description,
                )
                for name, labels, unit, description in document["keys"]
            ]
            if document["version"] != version or len(counters._keys) != n:
                raise BatchError(
                    f"counter baselines do not fit their keys: found {n} values of version {version}, "
                    f"expected {len(counters._keys)} of version {document['version']}"
                )
            floats = array("d")
            floats.frombytes(values[_HEAD.size :])
        except (ValueError, KeyError, TypeError, struct.error) as exc:
            raise BatchError(f"counter baselines are malformed: {exc}") from exc
        if len(floats) != n * (1 + started):
            raise BatchError(
                f"counter baselines are cut short: found {len(floats)} numbers, expected {n * (1 + started)}"
            )
        counters._slots = {key: slot for slot, key in enumerate(counters._keys)}
        counters._last = floats[:n].tolist()
        counters._started = floats[n:].tolist() if started else [math.nan] * n
        counters._at_s, counters._process_start = at_s, process_start
        counters.keys_version = version
        return counters
