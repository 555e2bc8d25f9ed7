"""Jobs in, lines out: retries, cancels, deadlines and a dead engine."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition

from services.inference import engine_room, line_run
from services.inference.class_queues import ClassQueues
from services.inference.engine import Answer, EngineDead, EngineLoad, EngineRequest, EngineResult, Retry
from services.inference.engine_room import EngineRoom
from services.inference.job import Done, Job
from services.inference.line_run import LineRunner
from services.inference.line_traces import begin
from services.inference.micro_batch import MicroBatches
from services.inference.window import WindowLimits
from shared.record_headers import RequestHeaders
from shared.settings import TelemetrySettings
from shared.telemetry import Telemetry
from shared.trace_context import trace_id_in
from tests.fakes import ScriptedEngine

OK = Answer(200, b"{}")


def job(number: int = 0, batch_id: str = "b", deadline_s: float | None = None) -> Job:
    deadline = int(deadline_s if deadline_s is not None else time.time() + 3600)
    headers = RequestHeaders(batch_id=batch_id, line=number, total=100, deadline_s=deadline)
    return Job(TopicPartition("t", 0), number, headers, f"c{number}", "/v1/completions", b"{}", b"", f"r{number}")


class Room:
    """An engine room with one consumer of its results."""

    def __init__(self, respond: Callable[[EngineRequest], EngineResult], window: int = 100) -> None:
        self.engine = ScriptedEngine(respond)
        runner = LineRunner(self.engine, "m", Telemetry("test", TelemetrySettings()), transient_tries=3)
        self.room = EngineRoom(self.engine, runner, WindowLimits.of(window), ClassQueues(MicroBatches))
        self.woken = asyncio.Event()
        self.room.connect(self.woken.set)

    async def results(self, number: int) -> list[Done]:
        found: list[Done] = []
        async with asyncio.timeout(5):
            while len(found) < number:
                await self.woken.wait()
                self.woken.clear()
                found += self.room.take()
        return found


def error_of(done: Done) -> Any:
    return json.loads(done.completion.value)["error"]


@pytest.fixture(autouse=True)
def _fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_run, "RETRY_BASE_S", 0.001)


async def test_every_job_ends_once_and_wakes_the_consumer() -> None:
    subject = Room(lambda _: OK)

    subject.room.submit([job(n) for n in range(50)])

    found = await subject.results(50)
    assert sorted(done.job.offset for done in found) == list(range(50))
    assert all(done.completion.succeeded for done in found)


async def test_busy_engine_is_asked_again_then_its_last_answer_is_taken() -> None:
    subject = Room(lambda _: Retry("busy", Answer(503, b"{}")))

    subject.room.submit([job()])

    (done,) = await subject.results(1)
    assert json.loads(done.completion.value)["response"]["status_code"] == 503
    assert len(subject.engine.requests) == 3


async def test_each_time_a_traced_line_is_asked_for_the_engine_has_another_span_as_its_parent() -> None:
    answers = iter(list[EngineResult]([Retry("busy"), OK]))
    subject, line, caller = Room(lambda _: next(answers)), job(), f"00-{'a' * 32}-{'b' * 16}-01"
    traced = begin(msgspec.structs.replace(line, headers=line.headers.with_traceparent(caller)))

    subject.room.submit([traced])

    (done,) = await subject.results(1)
    asked = [request.traceparent or "" for request in subject.engine.requests]
    assert asked == [each.traceparent for each in done.traced]
    assert asked[0] == traced.generation
    assert len({caller, traced.headers.traceparent, *asked}) == 4
    assert {trace_id_in(each) for each in asked} == {"a" * 32}


async def test_outage_burns_no_record() -> None:
    answers = iter([Retry("away")] * 10)
    subject = Room(lambda _: next(answers, OK))

    subject.room.submit([job()])

    (done,) = await subject.results(1)
    assert done.completion.succeeded
    assert len(subject.engine.requests) == 11


async def test_cancelled_batch_is_not_run_and_running_lines_are_given_up() -> None:
    subject = Room(lambda _: Retry("aborted"))
    subject.engine.gate.clear()
    subject.room.submit([job(1), job(2, "other")])
    await asyncio.sleep(0.01)

    subject.room.cancel_batch("b")
    subject.room.submit([job(3)])

    found = await subject.results(2)
    assert {done.job.offset for done in found} == {1, 3}
    assert all(error_of(done)["code"] == "batch_cancelled" for done in found)
    assert subject.engine.cancelled == ["r1"]
    subject.room.abandon()
    await asyncio.sleep(0.01)


async def test_line_long_past_its_deadline_says_so_and_one_just_past_it_still_runs() -> None:
    subject = Room(lambda _: OK)

    subject.room.submit([job(1, deadline_s=time.time() - 600), job(2, deadline_s=time.time() - 5)])

    found = {done.job.offset: done for done in await subject.results(2)}
    assert error_of(found[1])["code"] == "batch_expired"
    assert found[2].completion.succeeded


async def test_dead_engine_publishes_nothing() -> None:
    subject = Room(lambda _: EngineDead("core gone"))

    subject.room.submit([job()])

    async with asyncio.timeout(5):
        await subject.room.dead.wait()
    assert subject.room.failure == "core gone"
    assert subject.room.take() == []


async def test_fault_of_our_own_stops_the_worker_instead_of_losing_the_line() -> None:
    def explode(_: EngineRequest) -> EngineResult:
        raise LookupError("bug")

    subject = Room(explode)
    subject.room.submit([job()])

    async with asyncio.timeout(5):
        await subject.room.dead.wait()
    assert "bug" in (subject.room.failure or "")


async def test_abandoned_lines_are_not_published() -> None:
    subject = Room(lambda _: OK)
    subject.engine.gate.clear()
    subject.room.submit([job()])
    await asyncio.sleep(0.01)

    subject.room.abandon()
    await asyncio.sleep(0.01)
    subject.engine.gate.set()

    assert subject.room.take() == []


async def test_line_that_ends_lets_the_next_one_in_and_no_more_than_the_window_are_inside() -> None:
    subject = Room(lambda _: OK, window=2)  # three at first
    subject.engine.gate.clear()
    subject.room.submit([job(n) for n in range(10)])
    await asyncio.sleep(0.01)
    assert [request.request_id for request in subject.engine.requests] == ["r0", "r1", "r2"]

    subject.engine.gate.set()

    assert len(await subject.results(10)) == 10


async def test_window_follows_the_engine_s_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_room, "ADAPT_INTERVAL_S", 0.01)
    subject = Room(lambda _: OK, window=20)
    subject.engine.gate.clear()
    subject.room.submit([job(n) for n in range(100)])
    adapting = asyncio.create_task(subject.room.adapt())
    await asyncio.sleep(0.03)
    assert (subject.room.window, len(subject.engine.requests)) == (30, 30), "no signals"

    subject.engine.shown = EngineLoad(running=20, waiting=0)
    await asyncio.sleep(0.05)
    assert (subject.room.window, len(subject.engine.requests)) == (40, 40)
    subject.engine.shown = EngineLoad(running=10, waiting=30, kv_cache_usage=1.0, preemptions=1)
    await asyncio.sleep(0.03)
    assert subject.room.window < 15

    adapting.cancel()
    subject.engine.gate.set()
    assert len(await subject.results(100)) == 100


async def test_lines_that_wait_are_cancelled_at_once_and_dropped_at_a_drain() -> None:
    subject = Room(lambda _: OK, window=2)
    subject.engine.gate.clear()
    subject.room.submit([job(n, "ab"[n % 2]) for n in range(13)])
    await asyncio.sleep(0.01)

    subject.room.cancel_batch("b")
    assert {done.job.offset for done in await subject.results(5)} == {3, 5, 7, 9, 11}
    dropped = await asyncio.wrap_future(subject.room.drop_waiting())
    assert len(dropped) == 5
    subject.engine.gate.set()

    assert {done.job.offset for done in await subject.results(3)} == {0, 1, 2}


async def test_line_that_runs_long_past_its_deadline_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_room, "ADAPT_INTERVAL_S", 0.01)
    monkeypatch.setattr(line_run, "DEADLINE_MARGIN_S", 0.0)
    subject = Room(lambda _: Retry("aborted"))
    subject.engine.gate.clear()
    subject.room.submit([job(1, deadline_s=time.time() + 1)])
    adapting = asyncio.create_task(subject.room.adapt())

    (done,) = await subject.results(1)

    adapting.cancel()
    assert subject.engine.cancelled[0] == "r1"
    assert error_of(done)["code"] == "batch_expired"
