"""What is a line inside a worker? A request record, parsed, and what it ended as."""

import msgspec
from aiokafka import TopicPartition
from opentelemetry import trace

from services.inference.completion import Completion
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
    span: trace.Span | None = None

    @property
    def deadline_s(self) -> int:
        """When nobody wants it any more, in Unix seconds."""
        return self.headers.deadline_s

    @property
    def is_interactive(self) -> bool:
        """Whether somebody waits for it."""
        return self.headers.request_class == INTERACTIVE


class Done(msgspec.Struct, frozen=True):
    """A job and the line that it ended as."""

    job: Job
    completion: Completion
