"""Where do spans wait until they are exported? In a queue with a limit, which a thread of its own empties. SHELL.

The client's processor takes 33 us to be given a span between other work, and this one 5: it asks nothing.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import structlog
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter

from shared.noted_lines import NotedLines
from shared.record_spans import EndedSpan, NotedLine

log = structlog.get_logger(__name__)

# Spans are exported so often, or when lines of so many bytes are noted, so many at once: a request costs 1 ms.
EXPORT_INTERVAL_S, EXPORT_BYTES, EXPORT_SPANS = 5.0, 4 * 1024 * 1024, 2_048
# Of the last exports, also of one that a collector takes and never answers, which Telemetry.close cannot end.
SHUTDOWN_TIMEOUT_S = 3.0
# Of more spans the oldest are dropped: the collector is away, or slower than we are.
WAITING_MAX = 65_536


class SpanQueue(SpanProcessor):
    """Takes spans of ours, and of the client those that are sampled; `exporter` gets at most EXPORT_SPANS at a time."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._waiting: deque[ReadableSpan | EndedSpan] = deque(maxlen=WAITING_MAX)
        # By their kind, of which a process has one or two.
        self._lines: dict[type[NotedLine], NotedLines[Any]] = {}
        self._exporting = threading.Lock()
        self._due = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def put(self, span: EndedSpan) -> None:
        """Let one wait; from any thread."""
        self._waiting.append(span)

    def put_lines(self, lines: Sequence[NotedLine]) -> None:
        """Note one line or more of a kind until their spans are made; from any thread."""
        kind = type(lines[0])
        noted = self._lines.get(kind) or self._lines.setdefault(kind, NotedLines(kind))
        noted.add(lines)
        if noted.num_bytes >= EXPORT_BYTES:
            self._due.set()

    def on_end(self, span: ReadableSpan) -> None:
        """Let one of the client's wait."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._waiting.append(span)

    def shutdown(self) -> None:
        """Export what waits, for SHUTDOWN_TIMEOUT_S at most, and stop."""
        self._is_over = True
        self._due.set()
        self._thread.join(SHUTDOWN_TIMEOUT_S)
        self._exporter.shutdown()  # which ends what it is trying

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the exporter has a limit of its own
        """Export what waits, now."""
        self._export_waiting()
        return True

    def _run(self) -> None:
        while not self._is_over:
            self._due.wait(EXPORT_INTERVAL_S)
            self._due.clear()
            self._export_waiting()
        self._export_waiting()  # what came while the last ones were exported

    def _export_waiting(self) -> None:
        with self._exporting:
            spans = self._take()
            try:
                while some := list(islice(spans, EXPORT_SPANS)):
                    self._export(some)
            except Exception:
                log.exception("spans not exported")

    def _take(self) -> Iterator[ReadableSpan | EndedSpan]:
        for noted in list(self._lines.values()):
            for line in noted.take():
                yield from _spans_of(line)
        num_waiting = len(self._waiting)
        if num_waiting == WAITING_MAX:
            log.warning("spans dropped, the oldest first", spans_max=WAITING_MAX)
        for _ in range(num_waiting):
            yield self._waiting.popleft()

    def _export(self, spans: list[ReadableSpan | EndedSpan]) -> None:
        try:
            self._exporter.export(cast("list[ReadableSpan]", spans))  # ours knows both
        except Exception:
            log.exception("spans not exported", num_spans=len(spans))


def _spans_of(line: NotedLine) -> Iterable[EndedSpan]:
    try:
        return line.spans()
    except Exception:  # of one line, the others are told
        log.exception("spans not made")
        return ()
