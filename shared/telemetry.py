"""How are traces made? OpenTelemetry set-up, W3C context through Kafka headers, and which lines are traced. SHELL.

One trace per batch for control work, always kept; one trace per line for the data path, linked to the batch's
and kept for a share of the lines. The share is a function of (batch, line), so every service decides alike and
lines that are not traced cost nothing. Messaging names follow semantic conventions 1.44.
"""

import hashlib
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, SpanContext, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.metric_names import Metric
from shared.record_headers import RequestHeaders
from shared.settings import TelemetrySettings

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
EXPORT_QUEUE_SPANS = 65_536
# A value costs as much as a twentieth of a line that runs on a stub; the shape of a second's values is in these.
HISTOGRAM_VALUES_PER_SECOND = 200
# Links of a span: as many as a poll has records. The client's own limit would drop the rest without a word.
LINKS_MAX = 1_000
# Of spans about groups of records, and of failed lines, each kind.
SPANS_PER_SECOND = 10
_OPERATION_TYPES = {"send": "send", "poll": "receive", "commit": "settle"}
_propagator = TraceContextTextMapPropagator()
_BATCH_ID, _LINE = "headrace.batch.id", "headrace.line"


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
            exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint.rstrip("/") + "/v1/traces")
        if exporter is not None:
            self._provider = TracerProvider(
                resource=Resource.create({"service.name": f"headrace-{service}"}),
                span_limits=SpanLimits(max_links=LINKS_MAX),
            )
            self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=EXPORT_QUEUE_SPANS))
            # Set before an engine starts: vLLM's own spans then go through this provider.
            trace.set_tracer_provider(self._provider)
        self._ratio = settings.sample_ratio if self._provider else 0.0
        tracer = self._provider or trace.NoOpTracerProvider()
        self.tracer: Tracer = tracer.get_tracer("headrace", schema_url=SCHEMA_URL)
        self.meters = MeterProvider([PrometheusMetricReader()]) if serve_metrics else metrics.NoOpMeterProvider()
        self._meter = self.meters.get_meter("headrace", schema_url=SCHEMA_URL)
        # By kind of span: the second of the last one, and how many there were in it.
        self._told: dict[str, tuple[int, int]] = {}
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, SampledHistogram] = {}

    @property
    def enabled(self) -> bool:
        """Whether spans go anywhere."""
        return self._provider is not None

    def counter(self, metric: Metric) -> Counter:
        """A counter; one without labels is shown from the start as zero."""
        counter = self._counters.get(metric.name)
        if counter is None:
            counter = self._counters[metric.name] = self._meter.create_counter(metric.name, metric.unit, metric.help)
            if not metric.labels:
                counter.add(0)
        return counter

    def histogram(self, metric: Metric) -> "SampledHistogram":
        """A histogram, which looks at so many values a second at most."""
        histogram = self._histograms.get(metric.name)
        if histogram is None:
            found = self._meter.create_histogram(
                metric.name, metric.unit, metric.help, explicit_bucket_boundaries_advisory=metric.buckets
            )
            histogram = self._histograms[metric.name] = SampledHistogram(found)
        return histogram

    def gauge(self, metric: Metric, read: Callable[[], Mapping[tuple[str, ...], float]]) -> None:
        """A gauge: `read` gives its values by those of its labels, and is called for each look at the page."""

        def observe(_: CallbackOptions) -> Iterator[Observation]:
            for values, number in read().items():
                yield Observation(number, dict(zip(metric.labels, values, strict=True)))

        self._meter.create_observable_gauge(metric.name, [observe], metric.unit, metric.help)

    def traces_line(self, batch_id: str, line: int) -> bool:
        """Whether this line (0-based) belongs to the sampled share."""
        if self._ratio <= 0.0:
            return False
        digest = hashlib.blake2b(f"{batch_id}#{line}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) < self._ratio * 2.0**64

    @contextmanager
    def records(
        self, operation: str, topic: str, traceparents: Sequence[str], num_records: int, parent: str | None = None
    ) -> Iterator[None]:
        """A span about several records that a client sends, polls or commits, linked to those that are traced.

        None where no record is traced, or when there were some a moment ago: the records' own spans tell of each.
        """
        if not traceparents or not self.enabled or not self._has_room_for(operation):
            yield
            return
        attributes: dict[str, str | int] = {
            "messaging.system": "kafka",
            "messaging.operation.name": operation,
            "messaging.operation.type": _OPERATION_TYPES[operation],
            "messaging.destination.name": topic,
            "messaging.batch.message_count": num_records,
        }
        links = [link for traceparent in traceparents[:LINKS_MAX] for link in links_to(traceparent)]
        context = context_from(parent) or Context()
        with self.tracer.start_as_current_span(
            f"{operation} {topic}", context, SpanKind.CLIENT, attributes, links=links
        ):
            yield

    def failed_line(
        self, name: str, began_s: float, ended_s: float, error: str, attributes: Mapping[str, str | int]
    ) -> None:
        """A trace of its own for a line that failed and is not in the sampled share; some a second."""
        if not self.enabled or not self._has_room_for("failed"):
            return
        span = self.tracer.start_span(
            name, Context(), SpanKind.INTERNAL, {**attributes, "error.type": error}, start_time=int(began_s * 1e9)
        )
        span.set_status(trace.StatusCode.ERROR)
        span.end(int(ended_s * 1e9))

    def _has_room_for(self, kind: str) -> bool:
        second, (known, number) = int(time.monotonic()), self._told.get(kind, (-1, 0))
        number = number + 1 if second == known else 1
        self._told[kind] = (second, number)
        return number <= SPANS_PER_SECOND

    def close(self) -> None:
        """Send what is waiting and stop."""
        if self._provider is not None:
            self._provider.shutdown()


class SampledHistogram:
    """A histogram that costs little at any rate: of more values a second the first ones stand for all."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._second, self._num_left = -1, 0

    def record(self, value: float, labels: Mapping[str, str] | None = None) -> None:
        """Look at a value, if there is room for one this second."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._num_left = second, HISTOGRAM_VALUES_PER_SECOND
        if self._num_left > 0:
            self._num_left -= 1
            self._histogram.record(value, labels)


def traceparent_of(span: trace.Span) -> str | None:
    """The W3C header of a span, or None for one that is not recorded."""
    if not span.get_span_context().is_valid:
        return None
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(span))
    return carrier.get("traceparent")


def context_from(traceparent: str | None) -> Context | None:
    """The remote parent that a `traceparent` names; None when there is none."""
    if not traceparent:
        return None
    return _propagator.extract({"traceparent": traceparent})


def links_to(traceparent: str | None) -> list[Link]:
    """A link to the span that a `traceparent` names."""
    context = context_from(traceparent)
    if context is None:
        return []
    target: SpanContext = trace.get_current_span(context).get_span_context()
    return [Link(target)] if target.is_valid else []


def line_attributes(batch_id: str, line: int, custom_id: str | None = None) -> dict[str, str | int]:
    """Attributes by which a line's spans are found; `line` is 1-based as users count."""
    attributes: dict[str, str | int] = {
        _BATCH_ID: batch_id,
        "messaging.message.conversation_id": batch_id,
        _LINE: line + 1,
    }
    return attributes | ({"headrace.custom_id": custom_id} if custom_id is not None else {})


def request_attributes(headers: RequestHeaders, custom_id: str) -> dict[str, str | int]:
    """As `line_attributes`; a request without a batch is found by the id that its caller gave it."""
    if not headers.is_single:
        return line_attributes(headers.batch_id, headers.line, custom_id)
    return {"messaging.message.conversation_id": headers.request, "headrace.custom_id": custom_id}


def messaging_attributes(
    operation: str, kind: str, topic: str, partition: int, offset: int | None = None
) -> dict[str, str | int]:
    """Messaging attributes of a span about one record."""
    attributes: dict[str, str | int] = {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": topic,
        "messaging.destination.partition.id": str(partition),
    }
    return attributes | ({"messaging.kafka.offset": offset} if offset is not None else {})


def with_trace(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: inside a span, which trace a line of the log belongs to."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"], event["span_id"] = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    return event


def set_up_logging(settings: TelemetrySettings) -> None:
    """structlog to standard output: JSON for machines, text for people."""
    level = getattr(logging, settings.log_level.upper())
    logging.basicConfig(
        level=max(level, logging.WARNING), stream=sys.stdout, format="%(levelname)s %(name)s %(message)s"
    )
    renderer = (
        structlog.dev.ConsoleRenderer(colors=False)
        if settings.log_format == "text"
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            with_trace,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
