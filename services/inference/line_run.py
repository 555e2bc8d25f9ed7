"""How does one line become a completion? SHELL: ask the engine, ask again if it is worth it, refuse the unwanted."""

import asyncio
import random
import time
from typing import assert_never

import msgspec
import structlog

from services.inference.completion import Completion, answered, unanswered
from services.inference.engine import Answer, Engine, EngineDead, EngineRequest, Retry
from services.inference.job import Job, Run, TracedTry
from services.inference.line_traces import LineTraces
from shared.guesses import CANCELLED_MESSAGE
from shared.openai_batch import (
    CANCELLED_CODE,
    EXPIRED_CODE,
    EXPIRED_MESSAGE,
    REQUEST_EXPIRED_CODE,
    REQUEST_EXPIRED_MESSAGE,
)
from shared.record_spans import continued
from shared.telemetry import Telemetry

log = structlog.get_logger(__name__)

# A batch's line is only given up this long after its deadline: the record in the log decides, not this clock.
DEADLINE_MARGIN_S = 60.0
RETRY_BASE_S, RETRY_MAX_S = 0.2, 10.0
# Cancelled batches that are remembered, oldest forgotten first; forgetting one only wastes its lines.
CANCELLED_MAX = 10_000
_EXPIRED = {False: (EXPIRED_CODE, EXPIRED_MESSAGE), True: (REQUEST_EXPIRED_CODE, REQUEST_EXPIRED_MESSAGE)}


class LineRunner:
    """Runs lines on one engine; lives on the engine's loop."""

    def __init__(
        self, engine: Engine, model: str, telemetry: Telemetry, transient_tries: int, *, duplicate_errors: bool = False
    ) -> None:
        self._engine = engine
        self._line_traces = LineTraces(telemetry, engine.name, model)
        self._tries = transient_tries
        self._duplicate_errors = duplicate_errors
        self._cancelled: dict[str, None] = {}

    def cancel_batch(self, batch_id: str) -> None:
        """Lines of this batch are refused from now on."""
        self._cancelled[batch_id] = None
        if len(self._cancelled) > CANCELLED_MAX:
            del self._cancelled[next(iter(self._cancelled))]

    def refusal(self, job: Job) -> Completion | None:
        """The error line of a job that is not wanted any more."""
        if job.headers.batch_id in self._cancelled:
            return unanswered(job.headers, job.custom_id, CANCELLED_CODE, CANCELLED_MESSAGE)
        if is_overdue(job, time.time()):
            code, message = _EXPIRED[job.headers.is_single]
            return unanswered(job.headers, job.custom_id, code, message)
        return None

    async def run(self, job: Job, request: EngineRequest) -> Run | EngineDead:
        """Ask until there is an answer, or a reason not to."""
        refusal = self.refusal(job)
        tries, traced = 0, list[TracedTry]()
        while refusal is None:
            asked_ns = time.time_ns()
            result = await self._engine.answer(request)
            tries += 1
            if job.caller is not None:
                traced.append(TracedTry(request.traceparent or "", result, asked_ns, time.time_ns()))
            if refusal := self.refusal(job):
                break
            match result:
                case Answer():
                    return Run(self._answered(job, result), tries, result.times, tuple(traced))
                case EngineDead():
                    self._line_traces.tell_tries(job, traced)
                    return result
                case Retry(reason=reason, last=last):
                    # Without anything to settle for this is an outage: wait it out, burn no record.
                    if last is not None and tries >= self._tries:
                        return Run(self._answered(job, last), tries, traced=tuple(traced))
                    log.warning(
                        "engine busy, trying again",
                        reason=reason,
                        tries=tries,
                        request_id=job.request_id,
                        batch_id=job.headers.batch_id,
                        custom_id=job.custom_id,
                    )
                    await asyncio.sleep(min(RETRY_MAX_S, RETRY_BASE_S * 2 ** min(tries, 10)) * random.uniform(0.5, 1))
                    refusal = self.refusal(job)
                    request = _next_try(job, request)
                case _:
                    assert_never(result)
        return Run(refusal, tries, traced=tuple(traced))

    def _answered(self, job: Job, answer: Answer) -> Completion:
        return answered(job.headers, job.custom_id, job.request_id, answer, duplicate_errors=self._duplicate_errors)


def _next_try(job: Job, request: EngineRequest) -> EngineRequest:
    """The request, in a span of its own if the line is traced, which is the parent of the engine's."""
    if job.caller is None:
        return request
    return msgspec.structs.replace(request, traceparent=continued(job.caller))


def is_overdue(job: Job, now_s: float) -> bool:
    """Whether nobody waits for the line any more, by any clock that is nearly right."""
    return now_s > job.deadline_s + (0.0 if job.headers.is_single else DEADLINE_MARGIN_S)
