"""What is a line inside a worker? A request record, parsed, and what it ended as."""

import msgspec
from aiokafka import TopicPartition

from services.inference.completion import Completion
from services.inference.engine import EngineResult, EngineTimes
from shared.record_headers import RequestHeaders
from shared.topics import INTERACTIVE


class Job(msgspec.Struct, frozen=True):
    """A request record, parsed. `prompt` is the part of the body that engines cache by its beginning."""

    tp: TopicPartition
    offset: int
    headers: RequestHeaders
    custom_id: str
    url: str
    body: bytes
    prompt: bytes
    request_id: str
    # Where the line is traced: the `traceparent` of its record, that in its headers is then of our span about it; and
    # that of the first time that the engine is asked.
    caller: str | None = None
    generation: str | None = None
    # When its record was written, and fetched by this worker, in Unix seconds.
    sent_at: float = 0.0
    fetched_at: float = 0.0
    # A worker that died may have had it before.
    redelivered: bool = False

    @property
    def deadline_s(self) -> int:
        """When nobody wants it any more, in Unix seconds."""
        return self.headers.deadline_s

    @property
    def is_interactive(self) -> bool:
        """Whether somebody waits for it."""
        return self.headers.request_class == INTERACTIVE


class TracedTry(msgspec.Struct, frozen=True):
    """One time that the engine was asked for a line that is traced; `traceparent` is that of the try's span.

    Times in Unix nanoseconds.
    """

    traceparent: str
    result: EngineResult
    asked_ns: int
    answered_ns: int


class Run(msgspec.Struct, frozen=True):
    """How a job ended in the engine, which was asked so many times; `times` is what it says of the last."""

    completion: Completion
    tries: int = 0
    times: EngineTimes | None = None
    traced: tuple[TracedTry, ...] = ()


class Done(msgspec.Struct, frozen=True):
    """A job and the line that it ended as; when it entered and left the engine in Unix seconds, 0 if it never did."""

    job: Job
    completion: Completion
    entered_at: float = 0.0
    left_at: float = 0.0
    tries: int = 0
    times: EngineTimes | None = None
    traced: tuple[TracedTry, ...] = ()
