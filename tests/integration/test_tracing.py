"""A batch against the real Jaeger: a line's trace has spans of all three services, the batch's trace is another."""

import json
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from shared.settings import KafkaSettings
from shared.topics import Topics
from tests.e2e.stack import Stack, chat_line, chat_lines, submit, wait_for_end
from tests.e2e.test_intake import Headers, Outsider
from tests.providers import Server

Traces = dict[str, list[dict[str, Any]]]

SERVICES = {"headrace-ingest", "headrace-inference", "headrace-collector"}
FIND_TIMEOUT_S = 45.0


def get(jaeger: Server, path: str, **query: str) -> Any:
    url = f"{jaeger.extra['query']}{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())


def spans_of(jaeger: Server, path: str = "/api/v3/traces", **query: str) -> list[dict[str, Any]]:
    """Flat spans, each with its service; empty while nothing was found."""
    try:
        found = get(jaeger, path, **query)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return []
        raise AssertionError(f"jaeger answers {error.code}: {error.read()!r}") from error
    spans = []
    for resource in found.get("result", {}).get("resourceSpans", []):
        attributes = {a["key"]: a["value"].get("stringValue") for a in resource["resource"]["attributes"]}
        for scope in resource["scopeSpans"]:
            spans += [span | {"service": attributes["service.name"]} for span in scope["spans"]]
    return spans


def attributes_of(span: dict[str, Any]) -> dict[str, Any]:
    return {a["key"]: next(iter(a["value"].values())) for a in span.get("attributes", [])}


def window() -> dict[str, str]:
    now = time.time()
    form = "%Y-%m-%dT%H:%M:%SZ"
    return {
        "query.start_time_min": time.strftime(form, time.gmtime(now - 600)),
        "query.start_time_max": time.strftime(form, time.gmtime(now + 60)),
        "query.num_traces": "200",
    }


def traces(jaeger: Server, are_whole: Callable[[Traces], bool]) -> Traces:
    """All spans by their trace, once everybody has exported what is asked for: some come seconds after others."""
    deadline = time.monotonic() + FIND_TIMEOUT_S
    while True:
        found: Traces = {}
        for service in SERVICES:
            for span in spans_of(jaeger, **{"query.service_name": service}, **window()):
                of_trace = found.setdefault(span["traceId"], [])
                if span["spanId"] not in {known["spanId"] for known in of_trace}:  # a trace is found by each service
                    of_trace.append(span)
        if are_whole(found):
            return found
        assert time.monotonic() < deadline, {k: sorted(s["name"] for s in v) for k, v in found.items()}
        time.sleep(0.5)


def names_in(found: Traces, *trace_ids: str) -> set[str]:
    return {span["name"] for trace_id in trace_ids for span in found.get(trace_id, ())}


def test_line_trace_joins_the_three_services_through_a_killed_worker(
    jaeger: Server, kafka: Server, data_dir: Path, topic_prefix: str
) -> None:
    caller, parent_id = secrets.token_hex(16), secrets.token_hex(8)
    env = {
        "HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix,
        "HEADRACE_TELEMETRY__SAMPLE_RATIO": "1",
        "HEADRACE_INFERENCE__ECHO__LATENCY_S": "2",
        "HEADRACE_INFERENCE__HEARTBEAT_S": "0.2",
    }
    address = "memory" if kafka.provider == "memory" else kafka.address
    arguments = ["--engine", "echo", "--kafka", address, "--otlp", jaeger.address]
    with Stack(data_dir, arguments, env) as stack:
        client = stack.client()
        told = client.with_options(default_headers={"traceparent": f"00-{caller}-{parent_id}-01"})
        lines = chat_lines(3, "echo")
        batch_id = submit(told, lines).id
        deadline = time.monotonic() + FIND_TIMEOUT_S
        while httpx2.get(f"{stack.url}/workers").json()["data"][0]["in_flight"] < 3:
            assert time.monotonic() < deadline, "no worker takes the lines"
            time.sleep(0.1)
        stack.kill("inference-0")
        batch = wait_for_end(client, batch_id)
        assert batch.status == "completed"
        ids = [line["custom_id"] for line in lines]
        stories = [httpx2.get(f"{stack.url}/batches/{batch_id}/lines/{custom_id}").json() for custom_id in ids]
        reasons = [(story["redelivered"], story["because"], story["seconds"]) for story in stories]
        assert all(redelivered and "died" in because for redelivered, because, _ in reasons), reasons
        line_traces = {story["trace_id"] for story in stories}
        requests, completions = f"{topic_prefix}requests.echo.batch", f"{topic_prefix}completions"
        of_line = {f"create {requests}", f"process {requests}", "chat echo", f"process {completions}"}
        of_batch = {
            *("POST /v1/batches", "create batch", "validate batch", "finalise batch", "create object"),
            f"send {requests}",
        }
        # Of groups of records, in traces of their own.
        apart = {f"poll {requests}", f"commit {requests}", f"commit {completions}"}
        by_trace = traces(
            jaeger,
            lambda found: (
                all(of_line <= names_in(found, trace_id) for trace_id in line_traces)
                and of_batch <= names_in(found, caller)
                and apart <= names_in(found, *found)
            ),
        )

    for trace_id in line_traces:
        by_name = {s["name"]: s for s in by_trace[trace_id]}
        root = by_name[f"create {requests}"]
        assert not root.get("parentSpanId")
        assert by_name[f"process {requests}"]["parentSpanId"] == root["spanId"]
        assert by_name["chat echo"]["parentSpanId"] == by_name[f"process {requests}"]["spanId"]
        assert by_name[f"process {completions}"]["parentSpanId"] == by_name[f"process {requests}"]["spanId"]
        assert all(attributes_of(s)["headrace.batch.id"] == batch.id for s in by_trace[trace_id])
        assert [link["traceId"] for link in root["links"]] == [caller], "the trace of the call is the batch's"
    # Both ways: from a line to its batch, and from the batch's sends to its lines.
    sends = [s for s in by_trace[caller] if s["name"] == f"send {requests}"]
    assert line_traces <= {link["traceId"] for send in sends for link in send["links"]}
    posted = next(s for s in by_trace[caller] if s["name"] == "POST /v1/batches")
    assert posted["parentSpanId"] == parent_id


def test_trace_of_a_producer_goes_on_to_its_answer(
    jaeger: Server, kafka: Server, data_dir: Path, topic_prefix: str
) -> None:
    trace_id, parent_id, name = secrets.token_hex(16), secrets.token_hex(8), f"r-{secrets.token_hex(4)}"
    env = {"HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix, "HEADRACE_TELEMETRY__SAMPLE_RATIO": "0"}
    address = "memory" if kafka.provider == "memory" else kafka.address
    with Stack(data_dir, ["--engine", "echo", "--kafka", address, "--otlp", jaeger.address], env) as stack:
        outsider = Outsider(stack.stack_file()["kafka"], Topics(KafkaSettings(topic_prefix=topic_prefix)))
        headers: Headers = [("request-id", name), ("traceparent", f"00-{trace_id}-{parent_id}-01")]
        headers.append(("tracestate", b"vendor=said"))
        outsider.send(chat_line("c", "echo", "x"), headers)
        outsider.flush()
        answer = outsider.answers({name})[name]
        told = dict(answer.headers())
        assert (told["traceparent"].decode().split("-")[1], told["tracestate"]) == (trace_id, b"vendor=said")
        wanted = [f"process {topic_prefix}intake", f"process {topic_prefix}requests.echo.interactive", "chat echo"]
        deadline, by_name = time.monotonic() + FIND_TIMEOUT_S, dict[str, dict[str, Any]]()
        while not set(wanted) <= set(by_name) and time.monotonic() < deadline:
            time.sleep(0.5)
            by_name = {span["name"]: span for span in spans_of(jaeger, f"/api/v3/traces/{trace_id}")}

    assert set(wanted) <= set(by_name)
    parents = [by_name[span]["parentSpanId"] for span in wanted]
    assert parents == [parent_id, *(by_name[span]["spanId"] for span in wanted[:-1])]
    assert all(attributes_of(by_name[span])["messaging.message.conversation_id"] == name for span in wanted)
