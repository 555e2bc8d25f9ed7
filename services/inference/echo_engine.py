"""The deterministic engine: answers with the question. For trying the pipeline and for tests; no model runs.

The answer to a request is a function of the request alone (time stamps aside), usage is counted in words, and
latency, slots and failures can be set, so that throughput and faults can be studied without an accelerator.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable

from services.inference import echo_bodies
from services.inference.echo_bodies import BadRequest
from services.inference.engine import Answer, EngineLoad, EngineRequest, EngineResult, EngineTimes
from services.inference.settings import EchoSettings
from shared.openai_batch import ENDPOINTS, error_envelope

BodyMaker = Callable[[echo_bodies.EchoRequest], tuple[dict[str, object], int]]


class EchoEngine:
    """An Engine without a model."""

    name = "echo"
    endpoints: tuple[str, ...] = ENDPOINTS

    def __init__(self, model: str, settings: EchoSettings) -> None:
        self._model = model
        self._settings = settings
        self.num_slots = settings.slots
        self._slots = asyncio.Semaphore(settings.slots)
        self._num_running = self._num_waiting = 0
        self._makers: dict[str, BodyMaker] = {
            "/v1/chat/completions": echo_bodies.chat_completion,
            "/v1/completions": echo_bodies.completion,
            "/v1/embeddings": lambda r: echo_bodies.embeddings(r, settings.embedding_dimensions),
            "/v1/responses": echo_bodies.response,
        }

    def adapters(self) -> tuple[str, ...]:
        """None."""
        return ()

    async def start(self) -> None:
        """Nothing to load."""

    async def answer(self, request: EngineRequest) -> EngineResult:
        """Echo, after the configured latency."""
        self._misbehave(request.body)
        maker = self._makers.get(request.url)
        if maker is None:
            return _refusal(404, f"The echo engine does not serve {request.url}.")
        try:
            echo = echo_bodies.read_request(request.body, request.request_id, int(time.time()))
            if echo.model != self._model:
                return _refusal(404, f"The model '{echo.model}' does not exist.", code="model_not_found", param="model")
            body, output_tokens = maker(echo)
        except BadRequest as error:
            return _refusal(400, str(error), param=error.param)
        times = await self._take_time(request.request_id, output_tokens)
        if echo_bodies.fraction(request.request_id, "fail") < self._settings.failure_rate:
            return _refusal(500, "The echo engine was told to fail this request.", kind="server_error")
        return Answer(200, echo_bodies.encode(body), times)

    async def cancel(self, request: EngineRequest) -> None:
        """Echoes are short; let them end."""

    def load(self) -> EngineLoad | None:
        """Requests in its slots, and those that wait for one."""
        return EngineLoad(running=self._num_running, waiting=self._num_waiting)

    def failure(self) -> str | None:
        """It does not die."""
        return None

    async def probe(self) -> None:
        """Nothing can hang but the loop."""

    async def close(self, timeout_s: float) -> None:
        """Nothing to let go of."""

    def _misbehave(self, body: bytes) -> None:
        s = self._settings
        if s.fatal_text and s.fatal_text.encode() in body:
            os.kill(os.getpid(), signal.SIGKILL)
        while s.hang_text and s.hang_text.encode() in body:
            time.sleep(1.0)

    async def _take_time(self, request_id: str, output_tokens: int) -> EngineTimes | None:
        s = self._settings
        seconds = s.latency_s + s.latency_per_token_s * output_tokens
        if s.jitter_s:
            seconds += s.jitter_s * echo_bodies.fraction(request_id, "jitter")
        if seconds <= 0:
            return None
        began = time.monotonic()
        self._num_waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._num_waiting -= 1
        queued_ms = int((time.monotonic() - began) * 1000)
        self._num_running += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._num_running -= 1
            self._slots.release()
        return EngineTimes(queued_ms, 0, int((time.monotonic() - began) * 1000) - queued_ms)


def _refusal(
    status: int, message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> Answer:
    return Answer(status, echo_bodies.encode(error_envelope(message, kind=kind, param=param, code=code)))
