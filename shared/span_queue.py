"""Where do spans wait until they are exported? In a queue with a limit, which a thread of its own empties. SHELL.

The client's processor takes 33 us to be given a span between other work, and this one 5: it asks nothing.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import cast

import structlog
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter

from shared.record_spans import EndedSpan, MakeSpans

log = structlog.get_logger(__name__)

# Spans are exported when one has waited so long, or when there are as many as one export takes at a look.
EXPORT_INTERVAL_S, EXPORT_SPANS = 5.0, 512
# Each look costs 0.15 ms, because this thread finds nothing in the caches either.
LOOK_INTERVAL_S = 2.5
# Of the last exports; Telemetry.close ends them sooner, this holds where it was never called.
SHUTDOWN_TIMEOUT_S = 10.0
# Of more spans, or lines whose spans are made when they are exported, the oldest are dropped: the collector is away, or
# slower than we are.
WAITING_MAX = 65_536


class SpanQueue(SpanProcessor):
    """Takes spans of ours, and of the client those that are sampled; `exporter` gets at most EXPORT_SPANS at a time."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._waiting: deque[ReadableSpan | EndedSpan | MakeSpans] = deque(maxlen=WAITING_MAX)
        self._exporting = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def put(self, span: EndedSpan) -> None:
        """Let one wait; from any thread."""
        self._waiting.append(span)

    def put_lines(self, lines: Iterable[MakeSpans]) -> None:
        """Let the spans of these wait to be made; from any thread."""
        self._waiting.extend(lines)

    def on_end(self, span: ReadableSpan) -> None:
        """Let one of the client's wait."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._waiting.append(span)

    def shutdown(self) -> None:
        """Export what waits, for SHUTDOWN_TIMEOUT_S at most, and stop."""
        self._over.set()
        self._thread.join(SHUTDOWN_TIMEOUT_S)
        self._exporter.shutdown()  # which ends what it is trying

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the exporter has a limit of its own
        """Export what waits, now."""
        self._export_waiting()
        return True

    def _run(self) -> None:
        exported_at = time.monotonic()
        while not self._over.wait(LOOK_INTERVAL_S):
            now = time.monotonic()
            if len(self._waiting) >= EXPORT_SPANS or now - exported_at >= EXPORT_INTERVAL_S:
                self._export_waiting()
                exported_at = now
        self._export_waiting()

    def _export_waiting(self) -> None:
        if len(self._waiting) == WAITING_MAX:
            log.warning("spans dropped, the oldest first", spans_max=WAITING_MAX)
        with self._exporting:
            while num_waiting := min(len(self._waiting), EXPORT_SPANS):
                spans = [span for _ in range(num_waiting) for span in _made(self._waiting.popleft())]
                for start in range(0, len(spans), EXPORT_SPANS):
                    self._export(spans[start : start + EXPORT_SPANS])

    def _export(self, spans: list[ReadableSpan | EndedSpan]) -> None:
        try:
            self._exporter.export(cast("list[ReadableSpan]", spans))  # ours knows both
        except Exception:
            log.exception("spans not exported", num_spans=len(spans))


def _made(waiting: ReadableSpan | EndedSpan | MakeSpans) -> Iterable[ReadableSpan | EndedSpan]:
    if isinstance(waiting, ReadableSpan | EndedSpan):
        return (waiting,)
    try:
        return waiting()
    except Exception:  # of one line, the others are told
        log.exception("spans not made")
        return ()
