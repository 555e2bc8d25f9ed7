"""Which spans does a worker make about a line? SHELL: that of its record, and one for each time the engine was asked.

A line that is traced comes between a hundred that are not, and what is done for it alone finds everything out of the
processor's caches. So while it is worked on only ids and times are noted; its bodies are read and its spans are made
when they are exported.
"""

import time
from collections.abc import Sequence
from functools import partial

import msgspec
from opentelemetry.trace import SpanKind

from services.inference.generation_span import Answered, Asked, answered_in, asked_in, error_of, of_answer, of_request
from services.inference.job import Done, Job, TracedTry
from shared.held_bodies import HeldBodies, Unread
from shared.openai_batch import operation_of
from shared.record_headers import RequestHeaders
from shared.record_spans import EndedSpan, RecordSpan, continued, processed
from shared.span_attributes import Attributes, processed_request, request_attributes
from shared.telemetry import Telemetry
from shared.trace_context import is_sampled, may_be_sampled, span_id_in, trace_id_in

# An enumeration looks its members up, at each use.
_INTERNAL = SpanKind.INTERNAL


def begin(job: Job) -> Job:
    """The job with a span of ours, if the trace of its record is kept; only its id is known for now."""
    caller = job.headers.traceparent
    if caller is None or not may_be_sampled(caller):
        return job
    return msgspec.structs.replace(job, caller=caller, headers=job.headers.with_traceparent(continued(caller)))


class _Try(msgspec.Struct, frozen=True):
    """A `TracedTry` without the answer's body."""

    traceparent: str
    answered: Answered | None
    error: str | None
    asked_ns: int
    answered_ns: int


class _TracedLine(msgspec.Struct, frozen=True):
    """What the spans of a line are made of; `caller` and `own` are `traceparent` of its record and of our span."""

    topic: str
    partition: int
    offset: int
    headers: RequestHeaders
    custom_id: str
    caller: str
    own: str
    began_ns: int
    # Of the generations.
    operation: str
    asked: Asked | None
    tries: tuple[_Try, ...]


class LineTraces:
    """The traced lines of a worker; `tell` belongs to the Kafka thread, `tell_tries` to the engine's."""

    def __init__(self, telemetry: Telemetry, provider: str, model: str) -> None:
        self._telemetry = telemetry
        self._provider = provider
        self._model = model
        self._bodies = HeldBodies()

    def tell(self, lines: Sequence[Done], *, are_sent: bool) -> None:
        """Lines that are traced ended, and their answers were sent or could not be."""
        sent_ns = time.time_ns() if are_sent else None
        self._telemetry.tell_lines([partial(self._spans, self._unread(each), sent_ns) for each in lines])

    def _unread(self, done: Done) -> Unread[_TracedLine]:
        num_bytes = len(done.job.body) + len(done.completion.value)
        return self._bodies.hold(partial(_noted, done.job, done.traced), num_bytes)

    def tell_tries(self, job: Job, tries: Sequence[TracedTry]) -> None:
        """Of a line that is not answered, because the engine died."""
        if job.caller is not None:
            unread = Unread(partial(_noted, job, tries), len(job.body))
            self._telemetry.tell_lines([partial(self._spans, unread, None)])

    def _spans(self, unread: Unread[_TracedLine], sent_ns: int | None) -> list[EndedSpan]:
        """That of the record ends with its answer; without one it is not told."""
        line = unread.value()
        if not is_sampled(line.caller):
            return []
        return [*self._tries(line), *([] if sent_ns is None else [_about_record(line, sent_ns)])]

    def _tries(self, line: _TracedLine) -> list[EndedSpan]:
        name, trace_id = f"{line.operation} {self._model}", trace_id_in(line.own)
        attributes = partial(self._begun, line)
        return [
            EndedSpan(
                RecordSpan(name, _INTERNAL, trace_id, span_id_in(t.traceparent), line.own, attributes, (), t.asked_ns),
                of_answer(t.answered),
                t.error,
                t.answered_ns,
            )
            for t in line.tries
        ]

    def _begun(self, line: _TracedLine) -> Attributes:
        asked = of_request(line.asked, line.operation, self._provider, self._model)
        return request_attributes(line.headers, line.custom_id) | asked


def _about_record(line: _TracedLine, sent_ns: int) -> EndedSpan:
    attributes = partial(
        processed_request, line.topic, line.partition, line.offset, line.headers, line.custom_id, line.topic
    )
    return processed(line.topic, attributes, line.caller, own=line.own, began_ns=line.began_ns, ended_ns=sent_ns)


def _noted(job: Job, tries: Sequence[TracedTry]) -> _TracedLine:
    caller, own = job.caller, job.headers.traceparent
    assert caller is not None and own is not None, "begin() gave it both"
    return _TracedLine(
        topic=job.tp.topic,  # its name is that of the group, too
        partition=job.tp.partition,
        offset=job.offset,
        headers=job.headers,
        custom_id=job.custom_id,
        caller=caller,
        own=own,
        began_ns=int(job.fetched_at * 1e9),
        operation=operation_of(job.url),
        asked=asked_in(job.body),
        tries=tuple(
            _Try(t.traceparent, answered_in(t.result), error_of(t.result), t.asked_ns, t.answered_ns) for t in tries
        ),
    )
