"""What do counters and histograms do when somebody adds to them? Little: services call them in their hot loops.

The client's own take 10 us a call, and 50 between other work, where a row takes 200 in all processes together. These
are noted, then added up some at a time (one alone finds everything that it needs out of the processor's caches: 27 us
instead of 1), and the client gets the totals when somebody looks at them, so that every value counts.
"""

import threading
import time
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeVar

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, HistogramDataPoint
from opentelemetry.sdk.metrics.export import Metric as MetricData

from shared.metric_names import Metric

_NO_LABELS: Mapping[str, str] = MappingProxyType({})
_Key = tuple[tuple[str, str], ...]
_Value = TypeVar("_Value")
# So many are added up together, or fewer when somebody looks.
NOTED_MAX = 32


def _key_of(labels: Mapping[str, str]) -> _Key:
    """The same for the same labels, in whatever order they are told."""
    return tuple(sorted(labels.items()))


class _Instrument(ABC, Generic[_Value]):
    """Numbers by their labels; does nothing where it is never read. Both are kept for a while: do not change them."""

    def __init__(self, *, is_read: bool) -> None:
        self.is_read = is_read
        self._lock = threading.Lock()
        self._noted: deque[tuple[_Value, Mapping[str, str]]] = deque()

    def _note(self, value: _Value, labels: Mapping[str, str]) -> None:
        self._noted.append((value, labels))
        if len(self._noted) >= NOTED_MAX:
            with self._lock:
                self._add_noted()

    def _add_noted(self) -> None:
        """Under the lock, because only then nobody else takes what is noted."""
        while self._noted:
            value, labels = self._noted.popleft()
            self._add(value, _key_of(labels))

    @abstractmethod
    def _add(self, value: _Value, key: _Key) -> None: ...


class Tally(_Instrument[int]):
    """A counter, for an observable one of the client's."""

    def __init__(self, *, is_read: bool = True) -> None:
        super().__init__(is_read=is_read)
        self._totals: dict[_Key, int] = {}

    def add(self, number: int, labels: Mapping[str, str] = _NO_LABELS) -> None:
        """Count so many more under these labels; from any thread."""
        if self.is_read:
            self._note(number, labels)

    def _add(self, value: int, key: _Key) -> None:
        self._totals[key] = self._totals.get(key, 0) + value

    def observe(self, _: CallbackOptions) -> Iterator[Observation]:
        """All totals so far."""
        with self._lock:
            self._add_noted()
            totals = dict(self._totals)
        return (Observation(total, dict(key)) for key, total in totals.items())


@dataclass(slots=True)
class _Point:
    counts: list[int]
    total: float = 0.0


def _fill(counts: list[int], bounds: Sequence[float], ordered: Sequence[float]) -> None:
    """Add values in ascending order to the buckets, each up to its bound; half the work of a look-up for each value."""
    placed, last = 0, bisect_left(bounds, ordered[-1])
    for bucket in range(bisect_left(bounds, ordered[0]), last):
        end = bisect_right(ordered, bounds[bucket], placed)
        counts[bucket] += end - placed
        placed = end
    counts[last] += len(ordered) - placed


class Distribution(_Instrument[Sequence[float]]):
    """A histogram; the client has no observable one, so whoever reads its metrics adds this one's (`metric_page`)."""

    def __init__(self, metric: Metric, *, is_read: bool = True) -> None:
        super().__init__(is_read=is_read)
        self._metric = metric
        self._points: dict[_Key, _Point] = {}
        self._began_ns = time.time_ns()

    def record(self, value: float, labels: Mapping[str, str] = _NO_LABELS) -> None:
        """One value; from any thread."""
        self.record_all((value,), labels)

    def record_all(self, values: Sequence[float], labels: Mapping[str, str] = _NO_LABELS) -> None:
        """Values that have the same labels; from any thread. One below 0, of clocks that differ, counts as 0."""
        if self.is_read and values:
            self._note(values, labels)

    def _add(self, value: Sequence[float], key: _Key) -> None:
        bounds, ordered = self._metric.buckets, sorted(value)
        if ordered[0] < 0:
            ordered = [max(0.0, value) for value in ordered]
        point = self._points.get(key)
        if point is None:
            point = self._points[key] = _Point([0] * (len(bounds) + 1))
        _fill(point.counts, bounds, ordered)
        point.total += sum(ordered)

    def data(self) -> MetricData:
        """All values so far."""
        now_ns = time.time_ns()
        with self._lock:
            self._add_noted()
            points = [self._data_point(key, point, now_ns) for key, point in self._points.items()]
        m = self._metric
        return MetricData(m.name, m.help, m.unit, Histogram(points, AggregationTemporality.CUMULATIVE))

    def _data_point(self, key: _Key, point: _Point, now_ns: int) -> HistogramDataPoint:
        return HistogramDataPoint(
            attributes=dict(key),
            start_time_unix_nano=self._began_ns,
            time_unix_nano=now_ns,
            count=sum(point.counts),
            sum=point.total,
            bucket_counts=tuple(point.counts),
            explicit_bounds=self._metric.buckets,
            min=float("-inf"),  # not kept: a page does not show them
            max=float("inf"),
        )
