"""How are traces and metrics made? OpenTelemetry set-up, and which spans there are about records and lines. SHELL.

One trace per batch for control work, always kept; one trace per line for the data path, linked to the batch's
and kept for a share of the lines. The share is a function of (batch, line), so every service decides alike and
lines that are not traced cost nothing. Messaging names follow semantic conventions 1.44.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Metric as MetricData
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Span, SpanKind, Tracer

from shared.instruments import Distribution, Tally
from shared.metric_names import Metric
from shared.metric_page import PageReader
from shared.otlp_exporter import OtlpExporter
from shared.otlp_spans import SpanEncoder
from shared.record_headers import Header
from shared.record_spans import EndedSpan, NotedLine, RecordSpan, TellAttributes, begin_span
from shared.settings import TelemetrySettings
from shared.span_attributes import Attributes, group_attributes, messaging_attributes
from shared.span_queue import SpanQueue
from shared.trace_context import (
    PLACES,
    LineShare,
    LineTrace,
    is_sampled,
    line_share,
    line_trace,
    links_to,
    traceparent_in,
)
from shared.trace_provider import LINKS_MAX, make_tracer_provider, process_resource

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
# Of all spans and metrics that are not a library's.
SCOPE = InstrumentationScope("headrace", schema_url=SCHEMA_URL)
# Of the last exports, which a process that stops waits for.
CLOSE_TIMEOUT_S = 2.0
# Of failed lines, and of spans about groups of records, each kind.
FAILURES_PER_SECOND, GROUPS_PER_SECOND = 500, 1
_NO_SPAN = nullcontext()
# An enumeration looks its members up, at each use.
_CONSUMER = SpanKind.CONSUMER
_OPERATION_TYPES = {"send": "send", "poll": "receive", "commit": "settle"}


class Telemetry:
    """The tracer and the meter of a process, and the share of lines that it traces.

    `serve_metrics` puts the instruments into the process-wide Prometheus registry, which `/metrics` shows.
    """

    def __init__(
        self,
        service: str,
        settings: TelemetrySettings,
        exporter: SpanExporter | None = None,
        *,
        serve_metrics: bool = False,
    ) -> None:
        self._provider: TracerProvider | None = None
        if exporter is None and settings.otlp_endpoint:
            encoder = SpanEncoder(process_resource(service), SCOPE)
            exporter = OtlpExporter(settings.otlp_endpoint, encoder, os.environ)
        self._exporter = exporter
        self._ended: SpanQueue | None = None
        if exporter is not None:
            self._provider = make_tracer_provider(service, settings.sample_ratio)
            self._ended = SpanQueue(exporter)
            self._provider.add_span_processor(self._ended)
            # Set before an engine starts: vLLM's own spans then go through this provider.
            trace.set_tracer_provider(self._provider)
        self._share = int(settings.sample_ratio * PLACES) if self._provider else 0
        self.tracers: trace.TracerProvider = self._provider or trace.NoOpTracerProvider()
        self.tracer: Tracer = self.tracers.get_tracer(SCOPE.name, schema_url=SCHEMA_URL)
        self._is_read = serve_metrics and settings.metrics
        self.meters = (
            MeterProvider([PageReader(SCOPE, self._distributions)], process_resource(service))
            if self._is_read
            else metrics.NoOpMeterProvider()
        )
        self._meter = self.meters.get_meter(SCOPE.name, schema_url=SCHEMA_URL)
        # By kind of span: the second of the last one, and how many there were in it.
        self._told: dict[str, tuple[int, int]] = {}
        self._counters: dict[str, Tally] = {}
        self._histograms: dict[str, Distribution] = {}

    @property
    def enabled(self) -> bool:
        """Whether spans go anywhere."""
        return self._provider is not None

    def counter(self, metric: Metric) -> Tally:
        """A counter; one without labels is shown from the start as zero."""
        counter = self._counters.get(metric.name)
        if counter is None:
            counter = self._counters[metric.name] = Tally(is_read=self._is_read)
            self._meter.create_observable_counter(metric.name, [counter.observe], metric.unit, metric.help)
            if not metric.labels:
                counter.add(0)
        return counter

    def histogram(self, metric: Metric) -> Distribution:
        """A histogram."""
        histogram = self._histograms.get(metric.name)
        if histogram is None:
            histogram = self._histograms[metric.name] = Distribution(metric, is_read=self._is_read)
        return histogram

    def _distributions(self) -> list[MetricData]:
        return [histogram.data() for histogram in list(self._histograms.values())]

    def gauge(self, metric: Metric, read: Callable[[], Mapping[tuple[str, ...], float]]) -> None:
        """A gauge: `read` gives its values by those of its labels, and is called for each look at the page."""

        def observe(_: CallbackOptions) -> Iterator[Observation]:
            for values, number in read().items():
                yield Observation(number, dict(zip(metric.labels, values, strict=True)))

        self._meter.create_observable_gauge(metric.name, [observe], metric.unit, metric.help)

    def traces_line(self, batch_id: str, line: int) -> bool:
        """Whether this line (0-based) belongs to the sampled share."""
        return self.share_of(batch_id).has(line)

    def share_of(self, batch_id: str) -> LineShare:
        """The sampled share of a batch's lines, for whoever asks about many."""
        return line_share(batch_id, self._share)

    def trace_of_line(self, batch_id: str, line: int) -> LineTrace | None:
        """The trace of a line (0-based), or None if it is not in the sampled share."""
        return line_trace(batch_id, line) if self.traces_line(batch_id, line) else None

    def begin_process(self, topic: str, attributes: TellAttributes, parent: str) -> RecordSpan | None:
        """A span about the work on a record that has this `traceparent`; None where its trace is not kept.

        Of many records at once `processed` makes it later.
        """
        if self._ended is None or not is_sampled(parent):
            return None
        return begin_span(f"process {topic}", _CONSUMER, attributes, parent=parent)

    def tell_lines(self, lines: Sequence[NotedLine]) -> None:
        """Note lines of one kind, whose spans are made when they are exported; for hot loops."""
        if self._ended is not None and lines:
            self._ended.put_lines(lines)

    def end(
        self,
        span: RecordSpan,
        attributes: Attributes | None = None,
        *,
        error: str | None = None,
        ended_ns: int = 0,
    ) -> None:
        """Hand a span over to be exported; it ended now, or at a time in Unix nanoseconds."""
        if self._ended is not None:
            self._ended.put(EndedSpan(span, attributes or {}, error, ended_ns or time.time_ns()))

    @contextmanager
    def kept(self, name: str, parent: Context | None, attributes: Attributes, *linked: str | None) -> Iterator[Span]:
        """A span that is kept: a part of the trace it is called in, or a new one that is linked to it.

        `parent` None = the span that is current. A caller that does not trace its call still gets a trace of its batch.
        """
        caller = trace.get_current_span(parent).get_span_context()
        links = links_to(*linked)
        if caller.is_valid and not caller.trace_flags.sampled:
            links.append(trace.Link(caller))
            parent = Context()
        with self.tracer.start_as_current_span(name, parent, SpanKind.INTERNAL, attributes, links=links) as span:
            yield span

    def records(
        self, operation: str, topic: str, traceparents: Sequence[str], num_records: int, parent: str | None = None
    ) -> AbstractContextManager[object]:
        """A span about several records that a client sends, polls or commits, linked to those that are traced.

        None where no record is traced, or when there were some a moment ago: the records' own spans tell of each.
        """
        if not (self.enabled and traceparents and self._has_room_for(operation, GROUPS_PER_SECOND)):
            return _NO_SPAN
        kept = tuple(filter(is_sampled, traceparents))[:LINKS_MAX]
        if not kept:
            return _NO_SPAN
        attributes = partial(group_attributes, operation, _OPERATION_TYPES[operation], topic, num_records)
        parent = parent if is_sampled(parent) else None
        return self._until_done(
            begin_span(f"{operation} {topic}", SpanKind.CLIENT, attributes, parent=parent, links=kept)
        )

    @contextmanager
    def _until_done(self, span: RecordSpan) -> Iterator[None]:
        error = None
        try:
            yield
        except Exception as failed:
            error = type(failed).__name__
            raise
        finally:
            self.end(span, error=error)

    def failure(
        self,
        name: str,
        error: str,
        attributes: Attributes,
        *,
        parent: str | None = None,
        line: LineTrace | None = None,
        began_s: float | None = None,
        ended_s: float | None = None,
    ) -> None:
        """A span about what failed: in the trace of its caller if that is kept, else a trace of its own; some a second.

        The latter is the trace of its `line` if it is one, and is linked to its caller's. Times are Unix seconds.
        """
        if not self.enabled or not self._has_room_for("failure", FAILURES_PER_SECOND):
            return
        is_inside = is_sampled(parent)
        span = begin_span(
            name,
            SpanKind.INTERNAL,
            lambda: attributes,
            parent=parent if is_inside else None,
            line=line,
            links=(parent,) if parent and not is_inside else (),
            began_ns=int((began_s or 0.0) * 1e9),
        )
        self.end(span, error=error, ended_ns=int((ended_s or 0.0) * 1e9))

    def parked(self, topic: str, partition: int, offset: int, error: str, headers: Iterable[Header] | None) -> None:
        """A span about a record that becomes a dead letter; the letter has the headers, and so the same trace."""
        attributes = messaging_attributes("process", "process", topic, partition, offset)
        self.failure(f"process {topic}", error, attributes, parent=traceparent_in(headers))

    def _has_room_for(self, kind: str, per_second: int) -> bool:
        second, (known, number) = int(time.monotonic()), self._told.get(kind, (-1, 0))
        number = number + 1 if second == known else 1
        self._told[kind] = (second, number)
        return number <= per_second

    def close(self) -> None:
        """Send what is waiting, and stop; a collector that is away is not waited for any longer than a moment."""
        if self._provider is None or self._exporter is None:
            return
        limit = threading.Timer(CLOSE_TIMEOUT_S, self._exporter.shutdown)  # which ends its trying again
        limit.daemon = True
        limit.start()
        self._provider.shutdown()
        limit.cancel()
