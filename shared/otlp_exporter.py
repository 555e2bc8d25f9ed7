"""How do spans get to a collector? OTLP over HTTP 1.10, with its rules about trying again. SHELL.

The standard variables say what a collector wants: `OTEL_EXPORTER_OTLP_HEADERS`, `…_CERTIFICATE`,
`…_CLIENT_CERTIFICATE`, `…_CLIENT_KEY` and `…_COMPRESSION`, each also as `OTEL_EXPORTER_OTLP_TRACES_…`.
"""

import gzip
import random
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog
import urllib3
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.util.re import parse_env_headers
from urllib3.exceptions import HTTPError

from shared.errors import SetupError
from shared.otlp_spans import SpanEncoder
from shared.record_spans import EndedSpan

log = structlog.get_logger(__name__)

# Of one export with its repetitions; and between the first two of them, on average, doubled each time.
EXPORT_TIMEOUT_S, RETRY_BASE_S = 5.0, 0.2
TRIES_MAX = 6
RETRYABLE = (429, 502, 503, 504)


class OtlpExporter(SpanExporter):
    """Posts spans of ours, and those of the client; called on a thread of its own (`span_queue`).

    Raises SetupError when a variable cannot be followed.
    """

    def __init__(self, endpoint: str, encoder: SpanEncoder, environment: Mapping[str, str]) -> None:
        self._url = endpoint.rstrip("/") + "/v1/traces"
        self._encoder = encoder
        self._pool = urllib3.PoolManager(
            ca_certs=_file(environment, "CERTIFICATE"),
            cert_file=_file(environment, "CLIENT_CERTIFICATE"),
            key_file=_file(environment, "CLIENT_KEY"),
        )
        self._headers = {"content-type": "application/x-protobuf", "user-agent": "headrace"}
        self._headers |= parse_env_headers(_said(environment, "HEADERS") or "", liberal=True)
        self._is_compressed = _is_compressed(_said(environment, "COMPRESSION"))
        if self._is_compressed:
            self._headers["content-encoding"] = "gzip"
        self._over = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send all of them in one request; those that nobody took in time are given up, and logged."""
        ours = [span for span in spans if isinstance(span, EndedSpan)]
        others = [span for span in spans if not isinstance(span, EndedSpan)]
        body = self._encoder.request(ours) + (encode_spans(others).SerializeToString() if others else b"")
        reason = self._send(gzip.compress(body) if self._is_compressed else body)
        if reason is None:
            return SpanExportResult.SUCCESS
        log.warning("spans not exported", num_spans=len(spans), reason=reason)
        return SpanExportResult.FAILURE

    def _send(self, body: bytes) -> str | None:
        """Why it was not taken, None = it was."""
        deadline, reason = time.monotonic() + EXPORT_TIMEOUT_S, "the process stops"
        for tries in range(TRIES_MAX):
            if self._over.is_set():
                return reason
            failed, wait_s = self._try(body, deadline - time.monotonic())
            if failed is None or wait_s is None:
                return failed
            reason, wait_s = failed, max(wait_s, RETRY_BASE_S * 2**tries * random.uniform(0.8, 1.2))
            if time.monotonic() + wait_s > deadline:
                return reason
            self._over.wait(wait_s)
        return reason

    def _try(self, body: bytes, timeout_s: float) -> tuple[str | None, float | None]:
        """Why it was not taken, None = it was; and how long to wait before it is tried again, None = it is not."""
        timeout = urllib3.Timeout(total=max(timeout_s, 0.001))
        try:
            answer = self._pool.request(
                "POST", self._url, body=body, headers=self._headers, retries=False, timeout=timeout
            )
            if answer.status < 300:
                return None, None
            reason = f"the collector answers {answer.status}"
            if answer.status not in RETRYABLE:
                return reason, None
            return reason, urllib3.Retry().get_retry_after(answer) or 0.0
        except (HTTPError, OSError) as error:
            return f"{type(error).__name__}: {error}", 0.0

    def shutdown(self) -> None:
        """End what is tried again; nothing is sent any more."""
        self._over.set()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the interface names it
        """Nothing is held here."""
        return True


def _said(environment: Mapping[str, str], name: str) -> str | None:
    of_traces = environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}")
    return of_traces or environment.get(f"OTEL_EXPORTER_OTLP_{name}") or None


def _file(environment: Mapping[str, str], name: str) -> str | None:
    path = _said(environment, name)
    if path is not None and not Path(path).is_file():
        raise SetupError(f"OTEL_EXPORTER_OTLP_{name} names {path!r}, which is no file")
    return path


def _is_compressed(said: str | None) -> bool:
    if said not in (None, "none", "gzip"):
        raise SetupError(f"OTEL_EXPORTER_OTLP_COMPRESSION is {said!r}: none and gzip are known")
    return said == "gzip"
