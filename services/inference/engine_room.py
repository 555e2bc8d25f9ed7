"""How do lines get from the Kafka thread to the engine's loop and back? SHELL.

The Kafka client has a thread and a loop of its own, so that no tokeniser and no long call holds up its
heartbeats. Jobs and completions cross in groups, with one wake-up for many.
"""

import asyncio
import concurrent.futures
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

import structlog
from aiokafka import TopicPartition
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from services.inference.completion import Completion, answered, unanswered
from services.inference.engine import Answer, Engine, EngineDead, EngineRequest, EngineResult, Retry
from shared.guesses import CANCELLED_MESSAGE
from shared.openai_batch import CANCELLED_CODE, EXPIRED_CODE, EXPIRED_MESSAGE
from shared.record_headers import RequestHeaders
from shared.telemetry import Telemetry, context_from, line_attributes, traceparent_of

log = structlog.get_logger(__name__)

# A line is only skipped this long after its deadline: the record in the log decides, not this clock.
DEADLINE_MARGIN_S = 60.0
RETRY_BASE_S, RETRY_MAX_S = 0.2, 10.0
# Cancelled batches that are remembered, oldest forgotten first; forgetting one only wastes its lines.
CANCELLED_MAX = 10_000
_OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion", "/v1/embeddings": "embeddings"}


@dataclass(frozen=True, slots=True)
class Job:
    """A request record, parsed."""

    tp: TopicPartition
    offset: int
    headers: RequestHeaders
    custom_id: str
    url: str
    body: bytes
    request_id: str
    span: trace.Span | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """A job and the line that it ended as."""

    job: Job
    completion: Completion


class EngineRoom:
    """Runs jobs on the engine's loop; `submit` and `take` belong to the Kafka thread."""

    def __init__(
        self, engine: Engine, model: str, telemetry: Telemetry, transient_tries: int, *, duplicate_errors: bool = False
    ) -> None:
        self._engine = engine
        self._model = model
        self._telemetry = telemetry
        self._tries = transient_tries
        self._duplicate_errors = duplicate_errors
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[asyncio.Task[None], tuple[Job, EngineRequest]] = {}
        self._done: deque[Done] = deque()
        self._wake: Callable[[], object] | None = None
        self._lock = threading.Lock()
        self._woken = False
        self._cancelled: dict[str, None] = {}
        self._cancels: set[asyncio.Task[None]] = set()
        self._abandoned = False
        self.dead = asyncio.Event()
        self.failure: str | None = None

    def connect(self, wake: Callable[[], object]) -> None:
        """Name the thread-safe callable that tells the Kafka side that `take` has something."""
        self._wake = wake

    def submit(self, jobs: Sequence[Job]) -> None:
        """Hand jobs over; called from the Kafka thread."""
        self._loop.call_soon_threadsafe(self._start, list(jobs))

    def take(self) -> list[Done]:
        """All finished jobs since the last call; called from the Kafka thread."""
        with self._lock:
            self._woken = False
        taken: list[Done] = []
        while self._done:
            taken.append(self._done.popleft())
        return taken

    def cancel_batch(self, batch_id: str) -> None:
        """Lines of this batch are no longer wanted; called from the Kafka thread."""
        self._loop.call_soon_threadsafe(self._cancel_batch, batch_id)

    def probe(self) -> "concurrent.futures.Future[None]":
        """Ask loop and engine for a sign of life; called from the Kafka thread."""
        return asyncio.run_coroutine_threadsafe(self._engine.probe(), self._loop)

    def abandon(self) -> None:
        """Give up everything that runs; its records will be delivered again. Called from the Kafka thread."""
        self._loop.call_soon_threadsafe(self._abandon)

    def _answered(self, job: Job, answer: Answer) -> Completion:
        return answered(job.headers, job.custom_id, job.request_id, answer, duplicate_errors=self._duplicate_errors)

    def _start(self, jobs: list[Job]) -> None:
        for job in jobs:
            request = EngineRequest(job.request_id, job.url, job.body, job.headers.traceparent)
            task = self._loop.create_task(self._run(job, request))
            self._tasks[task] = (job, request)
            task.add_done_callback(self._ended)

    def _abandon(self) -> None:
        # A handler that is cancelled may return an answer all the same; nothing of it is a result.
        self._abandoned = True
        for task in list(self._tasks):
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A fault of ours, not of the line: stop without committing it, so that another try meets it.
            self._die(f"worker fault: {error!r}")

    def _cancel_batch(self, batch_id: str) -> None:
        self._cancelled[batch_id] = None
        if len(self._cancelled) > CANCELLED_MAX:
            del self._cancelled[next(iter(self._cancelled))]
        for job, request in list(self._tasks.values()):
            if job.headers.batch_id == batch_id:
                task = self._loop.create_task(self._engine.cancel(request))
                self._cancels.add(task)
                task.add_done_callback(self._cancels.discard)

    async def _run(self, job: Job, request: EngineRequest) -> None:
        completion = self._refusal(job)
        if completion is None:
            completion = await self._answer(job, request)
        if completion is None or self._abandoned:
            return
        self._done.append(Done(job, completion))
        with self._lock:
            if self._woken:
                return
            self._woken = True
        assert self._wake is not None, "connect() comes before submit()"
        self._wake()

    def _refusal(self, job: Job) -> Completion | None:
        if job.headers.batch_id in self._cancelled:
            return unanswered(job.headers, job.custom_id, CANCELLED_CODE, CANCELLED_MESSAGE)
        if time.time() > job.headers.deadline_s + DEADLINE_MARGIN_S:
            return unanswered(job.headers, job.custom_id, EXPIRED_CODE, EXPIRED_MESSAGE)
        return None

    async def _answer(self, job: Job, request: EngineRequest) -> Completion | None:
        """Ask until there is an answer; None when the engine is dead."""
        tries = 0
        while True:
            result = await self._traced(job, request)
            if refusal := self._refusal(job):
                return refusal
            match result:
                case Answer():
                    return self._answered(job, result)
                case EngineDead(reason=reason):
                    self._die(reason)
                    return None
                case Retry(reason=reason, last=last):
                    tries += 1
                    # Without anything to settle for this is an outage: wait it out, burn no record.
                    if last is not None and tries >= self._tries:
                        return self._answered(job, last)
                    log.warning("engine busy, trying again", reason=reason, tries=tries, request_id=job.request_id)
                    await asyncio.sleep(min(RETRY_MAX_S, RETRY_BASE_S * 2 ** min(tries, 10)) * random.uniform(0.5, 1))
                case _:
                    assert_never(result)

    async def _traced(self, job: Job, request: EngineRequest) -> EngineResult:
        if not request.traceparent or not self._telemetry.enabled:
            return await self._engine.answer(request)
        operation = _OPERATIONS.get(job.url, "generate_content")
        attributes = line_attributes(job.headers.batch_id, job.headers.line, job.custom_id) | {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": self._engine.name,
            "gen_ai.request.model": self._model,
        }
        with self._telemetry.tracer.start_as_current_span(
            f"{operation} {self._model}", context_from(request.traceparent), SpanKind.INTERNAL, attributes
        ) as span:
            inner = EngineRequest(request.request_id, request.url, request.body, traceparent_of(span))
            result = await self._engine.answer(inner)
            if isinstance(result, Answer) and result.status != 200:
                span.set_status(trace.StatusCode.ERROR)
                span.set_attribute("error.type", str(result.status))
            return result

    def _die(self, reason: str) -> None:
        if self.failure is None:
            self.failure = reason
            log.error("engine is dead", reason=reason)
            self.dead.set()
