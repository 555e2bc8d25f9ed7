"""Traces over the wire: what is kept of calls and lines that nobody samples, and what no span ever tells."""

import secrets
from collections.abc import Iterator

import httpx2
import pytest

from tests.e2e.stack import Stack, chat_line, chat_lines, submit, wait_for_end
from tests.otlp_sink import OtlpSink, SinkSpan, serve_otlp_sink
from tests.providers import Server

SECRET_TEXT = "only-for-the-model"
NUM_POLLS = 30


@pytest.fixture(scope="module")
def sink() -> Iterator[OtlpSink]:
    with serve_otlp_sink() as running:
        yield running


@pytest.fixture(scope="module")
def stack(kafka: Server, sink: OtlpSink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Of lines none is sampled."""
    address = "memory" if kafka.provider == "memory" else kafka.address
    env = {
        "HEADRACE_KAFKA__TOPIC_PREFIX": f"traces-{secrets.token_hex(3)}.",
        "HEADRACE_TELEMETRY__SAMPLE_RATIO": "0",
        "HEADRACE_TELEMETRY__TRACE_URL": "http://jaeger/{trace_id}",
    }
    arguments = ["--engine", "echo", "--kafka", address, "--otlp", sink.address]
    with Stack(tmp_path_factory.mktemp("traces"), arguments, env) as running:
        yield running


def created(sink: OtlpSink, batch_id: str) -> SinkSpan:
    found = sink.wait_for(lambda s: s.name == "create batch" and s.attributes["headrace.batch.id"] == batch_id)
    return found[0]


@pytest.mark.parametrize("flags", ["01", "00"])
def test_batch_has_a_trace_whether_its_caller_traces_or_not(stack: Stack, sink: OtlpSink, flags: str) -> None:
    client, caller, parent = stack.client(), secrets.token_hex(16), secrets.token_hex(8)
    told = client.with_options(default_headers={"traceparent": f"00-{caller}-{parent}-{flags}"})
    batch = wait_for_end(client, submit(told, chat_lines(3, "echo")).id)

    root = created(sink, batch.id)
    sink.wait_for(lambda s: s.trace_id == root.trace_id and s.name == "finalise batch")
    assert "validate batch" in sink.trace(root.trace_id)
    if flags == "01":
        posted = sink.trace(caller)["POST /v1/batches"]
        assert (posted.parent_id, root.parent_id) == (parent, posted.span_id)
    else:
        assert root.trace_id != caller and root.links == (caller,)
        assert not sink.trace(caller)


def test_line_that_failed_is_in_the_trace_that_why_names(stack: Stack, sink: OtlpSink) -> None:
    client = stack.client()
    bad = chat_line("bad", "echo", "x") | {"body": {"model": "echo", "messages": 7}}
    first = wait_for_end(client, submit(client, [*chat_lines(2, "echo"), bad]).id)

    told = httpx2.get(f"{stack.url}/batches/{first.id}/lines/bad").json()
    [span] = sink.wait_for(lambda s: s.trace_id == told["trace_id"])
    assert (span.name, span.is_error, span.parent_id) == ("chat echo", True, "")
    assert (span.attributes["headrace.batch.id"], span.attributes["headrace.custom_id"]) == (first.id, "bad")
    assert span.attributes["error.type"] and told["trace_url"] == f"http://jaeger/{span.trace_id}"

    answer = httpx2.post(f"{stack.url}/batches/{first.id}/retry").json()
    wait_for_end(client, answer["id"])
    assert created(sink, answer["id"]).links == (created(sink, first.id).trace_id,)


def test_what_users_wrote_and_what_only_watches_is_in_no_span(stack: Stack, sink: OtlpSink) -> None:
    client = stack.client()
    lines = [
        chat_line("secret", "echo", SECRET_TEXT),
        chat_line("bad", "echo", "x") | {"body": {"model": "echo", "messages": 7}},
    ]
    batch = wait_for_end(client, submit(client, lines).id)
    for _ in range(NUM_POLLS):
        httpx2.get(f"{stack.url}/batches/{batch.id}").raise_for_status()
    trace_id = created(sink, batch.id).trace_id
    sink.wait_for(lambda s: s.trace_id == trace_id and s.name == "finalise batch")

    assert SECRET_TEXT not in str(sink.spans)
    assert not [span for span in sink.spans if span.name.startswith("GET")]
    logs = "".join(path.read_text(errors="replace") for path in (stack.data / "logs").glob("*.log"))
    assert batch.id in logs and SECRET_TEXT not in logs
    assert len({span.instance for span in sink.spans if span.service == "headrace-ingest"}) == 1
