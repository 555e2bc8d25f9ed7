"""Which metrics are there? PURE: name, unit, labels and help of every instrument, ours and those of the conventions.

Ours begin with `headrace.`; `gen_ai.` follows semconv-genai of November 2026, `messaging.` semantic conventions 1.44.
Labels are model, class, outcome, error and the like: never a batch, a request, a key or a tenant.
"""

from dataclasses import dataclass
from typing import Literal

# Seconds to a day, for what may wait in a queue.
WAIT_BUCKETS_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0)
# As the conventions advise for one generation.
CALL_BUCKETS_S = tuple(0.01 * 2**n for n in range(14))

# As they advise for the first token, and for each of the others.
FIRST_TOKEN_BUCKETS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_GENERATION = ("gen_ai_operation_name", "gen_ai_request_model", "gen_ai_provider_name")
_MESSAGING = ("messaging_system", "messaging_operation_name", "messaging_destination_name")

_UNIT_NAMES = {"s": "seconds", "By": "bytes"}


@dataclass(frozen=True, slots=True)
class Metric:
    """An instrument. `unit` is UCUM, an annotation in braces for things that are counted."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def prometheus_names(self) -> tuple[str, ...]:
        """The names of its series on a metrics page."""
        base = self.name.replace(".", "_")
        if unit := _UNIT_NAMES.get(self.unit):
            base = f"{base}_{unit}"
        match self.kind:
            case "counter":
                return (f"{base}_total",)
            case "gauge":
                return (base,)
            case "histogram":
                return (f"{base}_bucket", f"{base}_sum", f"{base}_count")


DEPENDENCY_UP = Metric(
    "headrace.dependency.up",
    "gauge",
    "{dependency}",
    "Whether a process reaches its broker or store: 1 or 0",
    ("dependency",),
)
LINES_FINISHED = Metric(
    "headrace.lines.finished",
    "counter",
    "{line}",
    "Lines that a worker has published: completed or failed, and the error's code",
    ("model", "class", "outcome", "error_type"),
)
LINE_QUEUE_WAIT = Metric(
    "headrace.line.queue_wait",
    "histogram",
    "s",
    "From a line's request record to the engine",
    ("model", "class"),
    WAIT_BUCKETS_S,
)
LINES_IN_FLIGHT = Metric("headrace.lines.in_flight", "gauge", "{line}", "Lines that a worker holds", ("model",))
ENGINE_LINES = Metric("headrace.engine.lines", "gauge", "{line}", "Lines in the engine", ("model",))
ENGINE_WINDOW = Metric("headrace.engine.window", "gauge", "{line}", "Lines that the engine may have", ("model",))
UNCOMMITTED = Metric(
    "headrace.offsets.uncommitted",
    "gauge",
    "{record}",
    "Records that a worker has taken and not committed, the one in front unfinished",
    ("class",),
)
GROUP_LAG = Metric(
    "headrace.group.lag",
    "gauge",
    "{record}",
    "Records that a consumer group has not finished, as every ingest process asks the broker",
    ("group", "topic"),
)
LINES_DISPATCHED = Metric("headrace.lines.dispatched", "counter", "{line}", "Lines sent to workers", ("model",))
LINES_REFUSED = Metric(
    "headrace.lines.refused", "counter", "{line}", "Lines of batches by topic that are not well made"
)
LINES_REDRIVEN = Metric("headrace.lines.redriven", "counter", "{line}", "Lines that were lost and sent again")
INTAKE_RECORDS = Metric(
    "headrace.intake.records",
    "counter",
    "{record}",
    "Records of the intake: admitted, batch, refused, parked; and repeated ones among the admitted",
    ("outcome",),
)
DEAD_LETTERS = Metric("headrace.dead_letters", "counter", "{record}", "Records that were parked", ("error_type",))
FILE_BYTES = Metric("headrace.files.stored", "counter", "By", "Bytes of files that users uploaded")
BATCHES_OPEN = Metric(
    "headrace.batches.open", "gauge", "{batch}", "Batches that are not over, as this instance sees them", ("status",)
)
BATCHES_AT_RISK = Metric(
    "headrace.batches.at_risk", "gauge", "{batch}", "Open batches that will miss their deadline at their present speed"
)
BATCHES_CLOSED = Metric("headrace.batches.closed", "counter", "{batch}", "Batches that ended", ("status",))
BATCH_DURATION = Metric(
    "headrace.batch.duration", "histogram", "s", "From create to the end of a batch", ("status",), WAIT_BUCKETS_S
)
REFUSED_CALLS = Metric(
    "headrace.http.refused", "counter", "{call}", "Calls without a key that opens, scope or room", ("reason",)
)
LINES_COLLECTED = Metric(
    "headrace.lines.collected",
    "counter",
    "{line}",
    "Completions that a collector has folded: kept, or dropped and why",
    ("verdict",),
)
SEGMENT_APPEND = Metric(
    "headrace.segment.append.duration", "histogram", "s", "To make a segment durable", (), CALL_BUCKETS_S
)
SEGMENT_BYTES = Metric("headrace.segments.stored", "counter", "By", "Bytes of segments")
SERVER_DURATION = Metric(
    "gen_ai.server.request.duration",
    "histogram",
    "s",
    "A generation",
    (*_GENERATION, "error_type"),
    CALL_BUCKETS_S,
)
FIRST_TOKEN = Metric(
    "gen_ai.server.time_to_first_token",
    "histogram",
    "s",
    "From the engine's taking a request to its first token, where the engine tells",
    _GENERATION,
    FIRST_TOKEN_BUCKETS_S,
)
OTHER_TOKENS = Metric(
    "gen_ai.server.time_per_output_token",
    "histogram",
    "s",
    "For each token after the first one, where the engine tells",
    _GENERATION,
    TOKEN_BUCKETS_S,
)
INPUT_TOKENS = Metric(
    "gen_ai.client.inference.usage.input_tokens",
    "counter",
    "{token}",
    "Prompt tokens, cached ones included",
    _GENERATION,
)
CACHED_TOKENS = Metric(
    "gen_ai.client.inference.usage.cache_read.input_tokens",
    "counter",
    "{token}",
    "Prompt tokens from the engine's cache",
    _GENERATION,
)
OUTPUT_TOKENS = Metric(
    "gen_ai.client.inference.usage.output_tokens",
    "counter",
    "{token}",
    "Generated tokens",
    _GENERATION,
)
MESSAGES_SENT = Metric(
    "messaging.client.sent.messages",
    "counter",
    "{message}",
    "Records that the broker has acknowledged",
    _MESSAGING,
)
MESSAGES_CONSUMED = Metric(
    "messaging.client.consumed.messages",
    "counter",
    "{message}",
    "Records that were polled",
    _MESSAGING,
)
SEND_DURATION = Metric(
    "messaging.client.operation.duration",
    "histogram",
    "s",
    "To send records, until the broker has acknowledged all of them",
    _MESSAGING,
    CALL_BUCKETS_S,
)
PROCESS_DURATION = Metric(
    "messaging.process.duration",
    "histogram",
    "s",
    "From a worker's fetching a record to its answer",
    _MESSAGING,
    CALL_BUCKETS_S,
)


def messaging_labels(operation: str, topic: str) -> dict[str, str]:
    """Labels of the metrics about records; `operation` is `send`, `poll` or `process`."""
    return dict(zip(_MESSAGING, ("kafka", operation, topic), strict=True))


METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
