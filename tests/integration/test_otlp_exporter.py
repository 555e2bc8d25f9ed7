"""The way to a collector: what is tried again and what is not, and what the standard variables say."""

import gzip
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanKind

from shared.errors import SetupError
from shared.otlp_exporter import EXPORT_TIMEOUT_S, OtlpExporter
from shared.otlp_spans import SpanEncoder
from shared.record_spans import EndedSpan, begin_span
from shared.telemetry import SCOPE
from tests.memory_spans import RESOURCE, readable

ENCODER = SpanEncoder(RESOURCE, SCOPE)
OK, FAILED = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


class Collector:
    """Answers as it is told, 200 in the end; an answer of 0 hangs up."""

    def __init__(self, port: int, answers: list[int]) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.answers = answers
        self.headers: list[Mapping[str, str]] = []
        self.bodies: list[bytes] = []


@contextmanager
def collector(*answers: int, retry_after: str | None = None) -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            found.headers.append({name.lower(): value for name, value in self.headers.items()})
            found.bodies.append(self.rfile.read(int(self.headers["content-length"])))
            status = found.answers.pop(0) if found.answers else 200
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            if retry_after is not None and status != 200:
                self.send_header("retry-after", retry_after)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Collector(server.server_port, list(answers))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def exporter(address: str, **environment: str) -> OtlpExporter:
    return OtlpExporter(address, ENCODER, environment)


def span(name: str) -> Any:
    """The client's processor hands ours on as if they were its own."""
    return EndedSpan(begin_span(name, SpanKind.CLIENT, dict), {}, None, time.time_ns())


def names(body: bytes) -> list[str]:
    groups = ExportTraceServiceRequest.FromString(body).resource_spans
    return [each.name for group in groups for scope in group.scope_spans for each in scope.spans]


def test_spans_of_both_kinds_go_in_one_request() -> None:
    with collector() as there:
        assert exporter(there.address + "/").export([span("ours"), readable(span("the client's"))]) == OK

    assert [names(body) for body in there.bodies] == [["ours", "the client's"]]
    assert there.headers[0]["content-type"] == "application/x-protobuf"


@pytest.mark.parametrize("answer", [0, 429, 502, 503, 504])
def test_what_may_go_well_later_is_tried_again(answer: int) -> None:
    with collector(answer) as there:
        assert exporter(there.address).export([span("x")]) == OK

    assert len(there.bodies) == 2
    assert there.bodies[0] == there.bodies[1]


@pytest.mark.parametrize("answer", [301, 400, 404, 413, 500])
def test_what_will_not_is_given_up(answer: int) -> None:
    with collector(answer) as there:
        sends = exporter(there.address)
        assert sends.export([span("refused")]) == FAILED
        assert sends.export([span("next")]) == OK

    assert [names(body) for body in there.bodies] == [["refused"], ["next"]]


def test_collector_says_how_long_to_wait() -> None:
    began = time.monotonic()
    with collector(503, retry_after="1") as there:
        assert exporter(there.address).export([span("x")]) == OK

    assert time.monotonic() - began > 1.0


def test_longer_than_the_limit_is_not_waited() -> None:
    began = time.monotonic()
    with collector(503, retry_after="3600") as there:
        assert exporter(there.address).export([span("x")]) == FAILED

    assert time.monotonic() - began < EXPORT_TIMEOUT_S


def test_time_that_cannot_be_read_is_none() -> None:
    with collector(503, retry_after="soon") as there:
        assert exporter(there.address).export([span("x")]) == OK


def test_nothing_is_waited_for_once_it_is_over() -> None:
    with collector(*[503] * 10) as there:
        sends = exporter(there.address)
        sends.shutdown()
        assert sends.export([span("x")]) == FAILED

    assert not there.bodies


def test_waiting_ends_when_it_is_over() -> None:
    began = time.monotonic()
    with collector(*[503] * 10, retry_after="4") as there:
        sends = exporter(there.address)
        threading.Timer(0.5, sends.shutdown).start()
        assert sends.export([span("x")]) == FAILED

    assert len(there.bodies) == 1
    assert time.monotonic() - began < 4


def test_collector_that_is_away_is_a_failure_not_an_exception() -> None:
    with collector() as there:
        address = there.address

    sends = exporter(address)
    threading.Timer(0.5, sends.shutdown).start()
    assert sends.export([span("x")]) == FAILED


def test_standard_variables_are_followed() -> None:
    with collector() as there:
        sends = exporter(
            there.address,
            OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20general",
            OTEL_EXPORTER_OTLP_TRACES_HEADERS="authorization=Bearer%20traces,x-scope=team",
            OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        )
        assert sends.export([span("x")]) == OK

    assert there.headers[0]["authorization"] == "Bearer traces"
    assert there.headers[0]["x-scope"] == "team"
    assert there.headers[0]["content-encoding"] == "gzip"
    assert names(gzip.decompress(there.bodies[0])) == ["x"]


def test_files_of_certificates_are_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr("urllib3.PoolManager", lambda **options: made.append(options))
    for name in ("authority", "certificate", "key"):
        (tmp_path / name).touch()
    exporter(
        "https://collector:4318",
        OTEL_EXPORTER_OTLP_CERTIFICATE=f"{tmp_path}/authority",
        OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE=f"{tmp_path}/certificate",
        OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY=f"{tmp_path}/key",
    )

    files = {"ca_certs": "authority", "cert_file": "certificate", "key_file": "key"}
    assert made == [{option: f"{tmp_path}/{name}" for option, name in files.items()}]


def test_certificate_that_is_not_there_is_refused() -> None:
    with pytest.raises(SetupError, match="OTEL_EXPORTER_OTLP_CERTIFICATE names '/nowhere'"):
        exporter("https://127.0.0.1:1", OTEL_EXPORTER_OTLP_CERTIFICATE="/nowhere")


def test_unknown_compression_is_refused() -> None:
    with pytest.raises(SetupError, match="OTEL_EXPORTER_OTLP_COMPRESSION"):
        exporter("http://127.0.0.1:1", OTEL_EXPORTER_OTLP_TRACES_COMPRESSION="brotli")
