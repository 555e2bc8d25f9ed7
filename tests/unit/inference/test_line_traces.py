"""Each time that the engine was asked for a traced line is a span, told when the line ends."""

import time

import msgspec
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from services.inference import line_run, line_traces
from services.inference.completion import answered
from services.inference.engine import Answer, EngineDead, EngineRequest, EngineResult, Retry
from services.inference.job import Done, Job, Run
from services.inference.line_run import LineRunner
from services.inference.line_traces import LineTraces
from shared.noted_lines import READ_LATER_BYTES_MAX
from shared.settings import TelemetrySettings
from shared.telemetry import Telemetry
from tests.fakes import ScriptedEngine
from tests.memory_spans import MemorySpanExporter
from tests.unit.inference.test_engine_room import job

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
OK = Answer(200, b'{"model": "m-1", "usage": {"prompt_tokens": 3, "completion_tokens": 5}}')


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_run, "RETRY_BASE_S", 0.001)


def from_caller(traceparent: str) -> Job:
    line = job()
    return line_traces.begin(
        msgspec.structs.replace(line, headers=line.headers.with_traceparent(traceparent), fetched_at=1.5)
    )


async def run(
    results: list[EngineResult], *, is_traced: bool = True, are_sent: bool = True, body: bytes = b"{}"
) -> tuple[list[ReadableSpan], ScriptedEngine]:
    """What is exported for a line that the engine answers like this, one after the other."""
    exporter, left = MemorySpanExporter(), iter(results)
    telemetry, engine = Telemetry("test", TelemetrySettings(), exporter), ScriptedEngine(lambda _: next(left))
    line = msgspec.structs.replace(from_caller(PARENT) if is_traced else job(), body=body)
    ended = await LineRunner(engine, "m", telemetry, transient_tries=9).run(
        line, EngineRequest("r", line.url, line.body, traceparent=line.generation)
    )
    if isinstance(ended, Run):
        assert len(ended.traced) == (len(results) if is_traced else 0)
        told = LineTraces(telemetry, engine.name, "m")
        told.tell([Done(line, ended.completion, traced=ended.traced)] if is_traced else [], are_sent=are_sent)
    telemetry.close()
    return list(exporter.get_finished_spans()), engine


async def test_each_try_is_a_span_and_the_parent_of_the_engines() -> None:
    before = time.time_ns()
    spans, engine = await run([Retry("busy"), OK])
    record = spans.pop()
    assert [span.name for span in spans] == ["text_completion m"] * 2
    assert [span.kind for span in spans] == [SpanKind.INTERNAL] * 2
    first, second = (dict(span.attributes or {}) for span in spans)
    assert first["error.type"] == "busy" and "gen_ai.usage.input_tokens" not in first
    assert (second["gen_ai.usage.input_tokens"], second["gen_ai.response.model"]) == (3, "m-1")
    assert second["headrace.custom_id"] == "c0" and second["gen_ai.request.model"] == "m"
    assert "error.type" not in second
    times = [at or 0 for span in spans for at in (span.start_time, span.end_time)]
    assert times == sorted(times) and before <= times[0] and times[-1] <= time.time_ns()
    asked = [(request.traceparent or "").split("-") for request in engine.requests]
    assert [ids[2] for ids in asked] == [f"{span.context.span_id:016x}" for span in spans if span.context]
    assert {ids[1] for ids in asked} == {"a" * 32}

    assert (record.name, record.kind, record.start_time) == ("process t", SpanKind.CONSUMER, 1_500_000_000)
    assert times[-1] <= (record.end_time or 0) <= time.time_ns()
    assert record.parent is not None and f"{record.parent.span_id:016x}" == "b" * 16
    attributes = dict(record.attributes or {})
    assert attributes["messaging.consumer.group.name"] == "t" and attributes["headrace.custom_id"] == "c0"
    assert record.context is not None
    assert {span.parent.span_id for span in spans if span.parent} == {record.context.span_id}


async def test_engine_that_dies_has_its_span_though_nothing_is_published() -> None:
    spans, _ = await run([EngineDead("gone")])
    assert [dict(span.attributes or {}).get("error.type") for span in spans] == ["engine_dead"]


@pytest.mark.parametrize("padding", [b"", b" " * READ_LATER_BYTES_MAX], ids=["short", "long"])
async def test_what_bodies_say_is_told_however_long_they_are(padding: bytes) -> None:
    spans, _ = await run([Answer(200, padding + OK.body)], body=padding + b'{"max_tokens": 7, "temperature": 0.5}')
    told = {name: value for name, value in (spans[0].attributes or {}).items() if name.startswith("gen_ai.")}
    assert told == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "m",
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.response.model": "m-1",
    }


@pytest.mark.parametrize("padding", [b"", b" " * READ_LATER_BYTES_MAX], ids=["short", "long"])
async def test_bodies_that_cannot_be_read_say_nothing(padding: bytes) -> None:
    spans, _ = await run([Answer(200, padding + b"[" * 100_000)], body=padding + b'{"max_tokens": "many"}')
    assert [span.name for span in spans] == ["text_completion m", "process t"]
    assert not [name for name in spans[0].attributes or {} if "usage" in name or "max_tokens" in name]


async def test_refusal_has_its_status_and_nothing_of_its_body() -> None:
    spans, _ = await run([msgspec.structs.replace(OK, status=429)])
    attributes = dict(spans[0].attributes or {})
    assert attributes["error.type"] == "429" and not [name for name in attributes if "usage" in name]


async def test_answer_that_is_not_sent_was_generated_but_its_record_is_not_done() -> None:
    spans, _ = await run([OK], are_sent=False)
    assert [span.name for span in spans] == ["text_completion m"]


async def test_line_that_is_not_traced_has_none() -> None:
    spans, engine = await run([OK], is_traced=False)
    assert not spans and engine.requests[0].traceparent is None


@pytest.mark.parametrize("traceparent", [PARENT[:-2] + "00", "garbage", "", f"00-{'x' * 32}-{'b' * 16}-01"])
async def test_line_whose_trace_is_not_kept_has_none(traceparent: str) -> None:
    """What looks like one that is kept is found out when its spans are made, and harms nobody else's."""
    exporter = MemorySpanExporter()
    telemetry = Telemetry("test", TelemetrySettings(), exporter)
    told = LineTraces(telemetry, "echo", "m")
    completion = answered(job().headers, "c0", "r", OK)
    jobs = [from_caller(caller) for caller in (traceparent, PARENT)]
    told.tell([Done(each, completion) for each in jobs if each.caller is not None], are_sent=True)
    telemetry.close()
    assert [span.name for span in exporter.get_finished_spans()] == ["process t"]
