"""What a line's story says of its time."""

import dataclasses
from typing import Any

import msgspec
import pytest

from services.ingest.story import Found, Produced, story
from shared.batch_state import BatchView
from shared.line_times import LineTimes
from shared.messages import BatchClosed, BatchCreated, BatchDispatched
from shared.record_headers import CompletionHeaders
from shared.segment import Entry, Footer

S = 1_800_000_000
MS = S * 1000
CREATED = BatchCreated(id="b", endpoint="e", input_file_id="f", completion_window="24h", created_at=S, expires_at=S + 9)
RUNNING = BatchView(CREATED, dispatch=BatchDispatched(in_progress_at=S, total=9, next_line=5))
LATE = {"sent_ms": MS + 9_000, "fetched_ms": MS + 9_010, "entered_ms": MS + 9_020, "left_ms": MS + 9_030}
CLOSED = BatchClosed(status="completed", finalizing_at=S, closed_at=S + 60, total=9, completed=9, failed=0, not_run=0)
QUICK = LineTimes(
    worker="w",
    attempt=1,
    tries=1,
    redelivered=0,
    sent_ms=MS + 10,
    fetched_ms=MS + 20,
    entered_ms=MS + 25,
    left_ms=MS + 45,
    queued_ms=1,
    prefill_ms=2,
    decode_ms=10,
)


def answered(produced_ms: int = MS + 50, collected_ms: int = MS + 60, **times: int) -> Found:
    told = msgspec.structs.replace(QUICK, **times)
    headers = CompletionHeaders(kind="line", batch_id="b", line=3, total=9, succeeded=True, times=told.header())
    footer = Footer("completions", 1, 100, 200, "", (), written_at_ms=collected_ms)
    entry = Entry("b", 9, 3, "completed", 0, 1)
    return Found(3, None, (footer, entry), Produced("completions", 1, 150, produced_ms, headers))


def told(found: Found, view: BatchView = RUNNING) -> dict[str, Any]:
    return story(view, "c", found, "http://jaeger/{trace_id}")


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ({}, "No part"),
        (
            {"sent_ms": MS + 9_000, "fetched_ms": MS + 9_010, "entered_ms": MS + 9_020, "left_ms": MS + 9_030},
            "be put on",
        ),
        ({"fetched_ms": MS + 8_000, "entered_ms": MS + 8_001, "left_ms": MS + 8_010}, "until a worker fetched"),
        ({"fetched_ms": MS + 8_000, "entered_ms": MS + 8_001, "left_ms": MS + 8_010, "redelivered": 1}, "died"),
        ({"entered_ms": MS + 7_000, "left_ms": MS + 7_010}, "in its worker for a place"),
        ({"left_ms": MS + 6_000, "queued_ms": 5_000}, "engine's queue"),
        ({"left_ms": MS + 6_000, "prefill_ms": 5_000}, "read its prompt"),
        ({"left_ms": MS + 6_000, "decode_ms": 5_000}, "wrote its answer"),
        ({"left_ms": MS + 6_000, "queued_ms": -1, "prefill_ms": -1, "decode_ms": -1}, "does not tell more"),
        ({"left_ms": MS + 6_000, "tries": 4}, "asked 4 times"),
        ({"produced_ms": MS + 5_000}, "the broker to take it"),
        ({"collected_ms": MS + 5_000}, "until a collector made it durable"),
    ],
)
def test_longest_part_is_why(times: dict[str, int], words: str) -> None:
    produced = max(MS + 50, times.get("left_ms", 0) + 1)
    given = {"produced_ms": produced, "collected_ms": max(produced, times.get("produced_ms", 0)) + 1} | times
    assert words in told(answered(**given))["because"]


@pytest.mark.parametrize(("fetched_ms", "says_so"), [(MS + 1_800, True), (MS + 20, False)])
def test_death_of_a_worker_is_told_beside_what_took_longer(fetched_ms: int, says_so: bool) -> None:
    times = {"fetched_ms": fetched_ms, "entered_ms": MS + 1_801, "left_ms": MS + 3_800, "decode_ms": 1_990}
    because = told(answered(MS + 3_810, MS + 3_820, redelivered=1, **times))["because"]
    assert ("died" in because) is says_so
    assert because.startswith("The engine wrote its answer.")


def test_line_that_was_lost_says_so() -> None:
    found = told(answered(MS + 9_040, MS + 9_050, attempt=2, **LATE))
    assert "attempt 2" in found["because"]
    assert (found["attempt"], found["tries"], found["redelivered"]) == (2, 1, False)


def test_steps_are_in_order_and_the_engines_are_counted_from_its_end() -> None:
    found = told(answered(), dataclasses.replace(RUNNING, closed=CLOSED))
    steps = {step["step"]: step["at"] for step in found["steps"]}
    assert list(steps) == [
        *("accepted", "validated", "dispatched", "fetched", "into the engine", "engine queue", "prefill", "decode"),
        *("out of the engine", "produced", "collected", "in file"),
    ]
    times = list(steps.values())
    assert times == sorted(times)
    assert steps["decode"] == (MS + 35) / 1000 and steps["prefill"] == (MS + 33) / 1000
    assert found["seconds"]["decode"] == 0.01 and found["seconds"]["in_engine"] == 0.02


@pytest.mark.parametrize(("closed_s", "shown_s"), [(0, 0.06), (1, 1.0), (-1, -1.0)])
def test_what_is_known_in_whole_seconds_does_not_seem_to_come_too_early(closed_s: int, shown_s: float) -> None:
    closed = msgspec.structs.replace(CLOSED, closed_at=MS // 1000 + closed_s)
    found = told(answered(MS + 50, MS + 60), dataclasses.replace(RUNNING, closed=closed))
    assert found["steps"][-1] == {
        "step": "in file",
        "at": pytest.approx(MS / 1000 + shown_s),
        "file_id": closed.output_file_id,
    }


def test_line_without_an_answer_says_where_it_is() -> None:
    assert told(Found(3))["because"] == "It is on the request topic, and no worker has finished it."
    assert told(Found(7))["status"] == "waiting"
    gone = told(Found(3), dataclasses.replace(RUNNING, closed=msgspec.structs.replace(CLOSED, not_run=9)))
    assert (gone["status"], gone["seconds"]["in_topic"]) == ("not_run", None)


def test_trace_of_a_line_is_where_its_record_says_or_where_it_would_be() -> None:
    assert told(Found(3))["trace_url"] is None
    assert told(Found(3, "ab"))["trace_url"] == "http://jaeger/ab"
    found = answered()
    assert found.produced is not None
    headers = msgspec.structs.replace(found.produced.headers, traceparent="00-cd-ef-01")
    assert told(found._replace(trace_id="ab", produced=found.produced._replace(headers=headers)))["trace_id"] == "cd"
