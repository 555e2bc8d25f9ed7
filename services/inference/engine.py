"""What is an engine to a worker? The port with three implementations, and its answers."""

from dataclasses import dataclass
from typing import Protocol

import msgspec


class EngineRequest(msgspec.Struct, frozen=True):
    """One request: the endpoint's path and its JSON body, as the user wrote it; the lowest priority runs
    first, and ties by arrival."""

    request_id: str
    url: str
    body: bytes
    priority: int = 0
    traceparent: str | None = None
    tracestate: str = ""


class EngineTimes(msgspec.Struct, frozen=True):
    """Where a request's time went inside the engine: milliseconds in its queue, until the first token, and from
    there to the last."""

    queued_ms: int
    prefill_ms: int
    decode_ms: int


class Answer(msgspec.Struct, frozen=True):
    """An HTTP-like answer: `body` is a JSON object in UTF-8; a status other than 200 is the engine's refusal."""

    status: int
    body: bytes
    # As far as the engine tells.
    times: EngineTimes | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Not an answer: the engine was busy or away. `last` is what to settle for when trying ends, if anything."""

    reason: str
    last: Answer | None = None


@dataclass(frozen=True, slots=True)
class EngineDead:
    """The engine will not answer again in this process."""

    reason: str


EngineResult = Answer | Retry | EngineDead


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine says of itself: requests that run and that wait inside it, the share of its KV cache in use
    (0 to 1), and how often it has thrown out a running request for want of room since it started."""

    running: int
    waiting: int
    kv_cache_usage: float = 0.0
    preemptions: int = 0


class Engine(Protocol):
    """Runs requests of one model. All methods are called on one event loop."""

    name: str
    endpoints: tuple[str, ...]
    # Requests that run at once.
    num_slots: int

    def adapters(self) -> tuple[str, ...]:
        """Other models that requests may name, because the engine can put them on top of its own."""

    async def start(self) -> None:
        """Load the model and warm up; raises SetupError when that cannot work."""

    async def answer(self, request: EngineRequest) -> EngineResult:
        """Run one request to its end."""

    async def cancel(self, request: EngineRequest) -> None:
        """Give up a running request; its `answer` then returns soon, with a result that nobody uses."""

    def load(self) -> EngineLoad | None:
        """Its own signals, or None when it has none to show."""

    def failure(self) -> str | None:
        """Why the engine is dead, or None while it lives."""

    async def probe(self) -> None:
        """Return when the engine shows that it works, after its current step at the latest."""

    async def close(self, timeout_s: float) -> None:
        """Let go of the model."""
