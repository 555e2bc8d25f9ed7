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

from services.inference.generation_span import Asked, answered_in, asked_in, error_of, of_answer, of_request
from services.inference.job import Done, Job, TracedTry
from shared.held_bodies import HeldBodies
from shared.openai_batch import operation_of
from shared.record_headers import RequestHeaders
from shared.record_spans import EndedSpan, MakeSpans, RecordSpan, continued, processed
from shared.span_attributes import Attributes, processed_request, request_attributes
from shared.telemetry import Telemetry
from shared.trace_context import is_sampled, may_be_sampled, span_id_in, trace_id_in

# An enumeration looks its members up, at each use.
_INTERNAL = SpanKind.INTERNAL


def begin(job: Job) -> Job:
    """The job with spans of ours, if the trace of its record is kept; only their ids are known for now."""
    caller = job.headers.traceparent
    if caller is None or not may_be_sampled(caller):
        return job
    headers = job.headers.with_traceparent(continued(caller))
    return msgspec.structs.replace(job, caller=caller, generation=continued(caller), headers=headers)


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
        self._telemetry.tell_lines([self._held(each, sent_ns) for each in lines])

    def _held(self, done: Done, sent_ns: int | None) -> MakeSpans:
        num_bytes = len(done.job.body) + len(done.completion.value)
        return self._bodies.hold(partial(self._spans, done.job, done.traced, sent_ns), num_bytes)

    def tell_tries(self, job: Job, tries: Sequence[TracedTry]) -> None:
        """Of a line that is not answered, because the engine died."""
        if job.caller is not None:
            self._telemetry.tell_lines([partial(self._spans, job, tries, None)])

    def _spans(self, job: Job, tries: Sequence[TracedTry], sent_ns: int | None) -> list[EndedSpan]:
        """That of the record ends with its answer; without one it is not told. They hold no bodies."""
        caller, own = job.caller, job.headers.traceparent
        if caller is None or own is None or not is_sampled(caller):
            return []
        operation, trace_id = operation_of(job.url), trace_id_in(own)
        name = f"{operation} {self._model}"
        attributes = partial(self._begun, job.headers, job.custom_id, operation, asked_in(job.body))
        spans = [
            EndedSpan(
                RecordSpan(name, _INTERNAL, trace_id, span_id_in(t.traceparent), own, attributes, (), t.asked_ns),
                of_answer(answered_in(t.result)),
                error_of(t.result),
                t.answered_ns,
            )
            for t in tries
        ]
        return spans if sent_ns is None else [*spans, _about_record(job, caller, own, sent_ns)]

    def _begun(self, headers: RequestHeaders, custom_id: str, operation: str, asked: Asked | None) -> Attributes:
        return request_attributes(headers, custom_id) | of_request(asked, operation, self._provider, self._model)


def _about_record(job: Job, caller: str, own: str, sent_ns: int) -> EndedSpan:
    topic = job.tp.topic  # its name is that of the group, too
    attributes = partial(
        processed_request, topic, job.tp.partition, job.offset, job.headers, job.custom_id, group=topic
    )
    began_ns = int(job.fetched_at * 1e9)
    return processed(topic, attributes, caller, own=own, began_ns=began_ns, ended_ns=sent_ns)
