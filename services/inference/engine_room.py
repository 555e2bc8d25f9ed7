"""How do lines get from the Kafka thread into the engine and back? SHELL.

The Kafka client has a thread and a loop of its own, so that no tokeniser and no long call holds up its heartbeats.
Jobs and completions cross in groups, with one wake-up for many. On the engine's loop lines wait in micro-batches, and
each line that ends lets the next one in at once: neither a broker nor a slow line is a barrier.
"""

import asyncio
import concurrent.futures
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from services.inference.class_queues import ClassQueues, reserve
from services.inference.engine import Engine, EngineDead, EngineLoad, EngineRequest
from services.inference.job import Done, Job
from services.inference.line_run import LineRunner, is_overdue
from services.inference.micro_batch import DEADLINE_STEP_S
from services.inference.window import WindowLimits, next_window

log = structlog.get_logger(__name__)

# How often the engine's signals are looked at.
ADAPT_INTERVAL_S = 1.0
# Beyond every deadline in minutes.
BATCH_PRIORITY = 10**9


class EngineRoom:
    """Keeps the engine full; `submit`, `take` and the like belong to the Kafka thread."""

    def __init__(self, engine: Engine, runner: LineRunner, limits: WindowLimits, waiting: ClassQueues[Job]) -> None:
        self._engine = engine
        self._runner = runner
        self._limits = limits
        self._waiting = waiting
        self._loop = asyncio.get_running_loop()
        self._running: dict[asyncio.Task[None], tuple[Job, EngineRequest]] = {}
        self._done: deque[Done] = deque()
        self._wake: Callable[[], object] | None = None
        self._lock = threading.Lock()
        self._woken = False
        self._cancels: set[asyncio.Task[None]] = set()
        self._abandoned = False
        self._num_preemptions = 0
        self.window = limits.start
        self.load: EngineLoad | None = None
        self.dead = asyncio.Event()
        self.failure: str | None = None

    @property
    def num_inside(self) -> int:
        """Lines in the engine."""
        return len(self._running)

    def connect(self, wake: Callable[[], object]) -> None:
        """Name the thread-safe callable that tells the Kafka side that `take` has something."""
        self._wake = wake

    def submit(self, jobs: Sequence[Job]) -> None:
        """Hand jobs over; called from the Kafka thread."""
        self._loop.call_soon_threadsafe(self._add, jobs)

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

    def adapters(self) -> tuple[str, ...]:
        """Other models that the engine answers for; called from the Kafka thread."""
        return self._engine.adapters()

    def drop_waiting(self) -> "concurrent.futures.Future[list[Job]]":
        """Let no more lines in: those that wait will be delivered again. Which; called from the Kafka thread."""
        return asyncio.run_coroutine_threadsafe(self._drop_waiting(), self._loop)

    def abandon(self) -> None:
        """Give up everything that runs; its records will be delivered again. Called from the Kafka thread."""
        self._loop.call_soon_threadsafe(self._abandon)

    async def adapt(self) -> None:
        """Follow the engine's signals, and abort what is overdue, until cancelled."""
        while True:
            await asyncio.sleep(ADAPT_INTERVAL_S)
            self._adapt()
            now_s = time.time()
            for job, request in list(self._running.values()):
                if is_overdue(job, now_s):
                    self._abort(request)

    def _adapt(self) -> None:
        load = self.load = self._engine.load()
        if load is None:
            return
        num_preempted, self._num_preemptions = load.preemptions - self._num_preemptions, load.preemptions
        window = next_window(
            self.window, self._limits, load, num_inside=len(self._running), num_preempted=num_preempted
        )
        if window != self.window:
            log.info("window", lines=window, running=load.running, waiting=load.waiting, kv_cache=load.kv_cache_usage)
            self.window = window
            self._top_up()

    def _add(self, jobs: Sequence[Job]) -> None:
        self._waiting.add(jobs)
        self._top_up()

    def _top_up(self) -> None:
        while (job := self._next()) is not None:
            request = _engine_request(job)
            task = self._loop.create_task(self._run(job, request))
            self._running[task] = (job, request)
            task.add_done_callback(self._ended)

    def _next(self) -> Job | None:
        """The next line that may enter."""
        num_running = len(self._running)
        if num_running < self.window:
            return self._waiting.pop()
        return self._waiting.pop(only_interactive=True) if num_running < self.window + reserve(self.window) else None

    async def _run(self, job: Job, request: EngineRequest) -> None:
        entered_at = time.time()
        result = await self._runner.run(job, request)
        if isinstance(result, EngineDead):
            self._die(result.reason)
        elif not self._abandoned:
            self._finish(
                Done(job, result.completion, entered_at, time.time(), result.tries, result.times, result.traced)
            )

    def _finish(self, done: Done) -> None:
        self._done.append(done)
        with self._lock:
            if self._woken:
                return
            self._woken = True
        assert self._wake is not None, "connect() comes before submit()"
        self._wake()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A fault of ours, not of the line: stop without committing it, so that another try meets it.
            self._die(f"worker fault: {error!r}")
        if not self._abandoned and self.failure is None:
            self._top_up()

    async def _drop_waiting(self) -> list[Job]:
        return self._waiting.remove(lambda _: True)

    def _abandon(self) -> None:
        # A handler that is cancelled may return an answer all the same; nothing of it is a result.
        self._abandoned = True
        for task in list(self._running):
            task.cancel()

    def _cancel_batch(self, batch_id: str) -> None:
        self._runner.cancel_batch(batch_id)
        for job in self._waiting.remove(lambda waiting: waiting.headers.batch_id == batch_id):
            if refusal := self._runner.refusal(job):
                self._finish(Done(job, refusal))
        for job, request in list(self._running.values()):
            if job.headers.batch_id == batch_id:
                self._abort(request)

    def _abort(self, request: EngineRequest) -> None:
        task = self._loop.create_task(self._engine.cancel(request))
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)

    def _die(self, reason: str) -> None:
        if self.failure is None:
            self.failure = reason
            log.error("engine is dead", reason=reason)
            self.dead.set()


def _engine_request(job: Job) -> EngineRequest:
    headers = job.headers
    traceparent = job.generation or headers.traceparent
    return EngineRequest(job.request_id, job.url, job.body, _priority(job), traceparent, headers.tracestate)


def _priority(job: Job) -> int:
    """Interactive lines before all others, and then by deadline."""
    return job.deadline_s // DEADLINE_STEP_S + (0 if job.is_interactive else BATCH_PRIORITY)
