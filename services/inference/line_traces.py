"""Which spans does a worker make about a line? SHELL: that of its record, and one for each time the engine was asked.

A line that is traced comes between a hundred that are not, and what is done for it alone finds everything out of the
processor's caches. So while it is worked on only ids and times are noted; its bodies are read and its spans are made
when they are exported.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import msgspec
from opentelemetry.trace import SpanKind

from services.inference.engine import Answer
from services.inference.generation_span import answered_in, asked_in, error_of, of_answer, of_request
from services.inference.job import Done, Job, TracedTry
from shared.noted_lines import READ_LATER_BYTES_MAX
from shared.openai_batch import operation_of
from shared.record_headers import RequestHeaders
from shared.record_spans import EndedSpan, NotedLine, RecordSpan, continued, processed
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

    def tell(self, lines: Sequence[Done], *, are_sent: bool) -> None:
        """Lines that are traced ended, and their answers were sent or could not be."""
        sent_ns = time.time_ns() if are_sent else None
        self._tell([(each.job, each.traced) for each in lines], sent_ns)

    def tell_tries(self, job: Job, tries: Sequence[TracedTry]) -> None:
        """Of a line that is not answered, because the engine died."""
        self._tell([(job, tries)], None)

    def _tell(self, lines: Sequence[tuple[Job, Sequence[TracedTry]]], sent_ns: int | None) -> None:
        self._telemetry.tell_lines(
            [
                _WorkedOn(
                    caller=job.caller,
                    headers=job.headers,
                    custom_id=job.custom_id,
                    url=job.url,
                    body=_short(job.body, asked_in),
                    topic=job.tp.topic,
                    partition=job.tp.partition,
                    offset=job.offset,
                    fetched_at=job.fetched_at,
                    sent_ns=sent_ns,
                    provider=self._provider,
                    model=self._model,
                    tries=[_noted(each) for each in tries],
                )
                for job, tries in lines
                if job.caller is not None
            ]
        )


class _Try(msgspec.Struct, frozen=True, array_like=True):
    """A `TracedTry`; `answer` is the body of one that went well, or what matters of it."""

    traceparent: str
    asked_ns: int
    answered_ns: int
    error: str | None
    answer: bytes


def _noted(tried: TracedTry) -> _Try:
    result, error = tried.result, error_of(tried.result)
    answer = _short(result.body, answered_in) if isinstance(result, Answer) and error is None else b""
    return _Try(tried.traceparent, tried.asked_ns, tried.answered_ns, error, answer)


def _short(body: bytes, read: Callable[[bytes], object]) -> bytes:
    return body if len(body) <= READ_LATER_BYTES_MAX else msgspec.json.encode(read(body))


class _WorkedOn(NotedLine, frozen=True, kw_only=True):
    """A line whose work ended; the times of fetching in Unix seconds, of sending in nanoseconds, None = not sent."""

    caller: str
    headers: RequestHeaders
    custom_id: str
    url: str
    body: bytes
    topic: str
    partition: int
    offset: int
    fetched_at: float
    sent_ns: int | None
    provider: str
    model: str
    tries: list[_Try]

    def spans(self) -> Iterable[EndedSpan]:
        """That of the record ends with its answer; without one it is not told."""
        own = self.headers.traceparent
        if own is None or not is_sampled(self.caller):
            return []
        begun = self._begun()
        tries = [self._about_try(each, own, begun) for each in self.tries]
        return tries if self.sent_ns is None else [*tries, self._about_record(own, self.sent_ns)]

    def _about_try(self, tried: _Try, own: str, begun: Attributes) -> EndedSpan:
        name = f"{operation_of(self.url)} {self.model}"
        trace_id, span_id = trace_id_in(own), span_id_in(tried.traceparent)
        span = RecordSpan(name, _INTERNAL, trace_id, span_id, own, lambda: begun, (), tried.asked_ns)
        return EndedSpan(span, of_answer(answered_in(tried.answer)), tried.error, tried.answered_ns)

    def _begun(self) -> Attributes:
        asked = of_request(asked_in(self.body), operation_of(self.url), self.provider, self.model)
        return request_attributes(self.headers, self.custom_id) | asked

    def _about_record(self, own: str, sent_ns: int) -> EndedSpan:
        # The topic's name is that of the group, too.
        attributes = partial(
            processed_request,
            self.topic,
            self.partition,
            self.offset,
            self.headers,
            self.custom_id,
            group=self.topic,
        )
        began_ns = int(self.fetched_at * 1e9)
        return processed(self.topic, attributes, self.caller, own=own, began_ns=began_ns, ended_ns=sent_ns)
