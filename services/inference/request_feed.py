"""How do the records of one class get into the engine room? SHELL: take what there is room for, parse, hand over.

Records that cannot be read are parked; those that may have killed two owners run apart, with nothing beside them.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import msgspec
import structlog
from aiokafka import TopicPartition

from services.inference import line_traces
from services.inference.assigned_log import AssignedLog
from services.inference.completion import unanswered
from services.inference.engine_room import EngineRoom
from services.inference.finished_record import finished_record
from services.inference.in_flight import InFlight
from services.inference.job import Done, Job
from services.inference.suspicion import group_size
from services.inference.window import lines_to_fetch, look_ahead
from shared.claim_check import parse_claim
from shared.claim_store import ClaimStore
from shared.dead_letters import UNREADABLE, WORKER_KILLED, dead_letter
from shared.errors import ObjectStoreError, UnavailableError
from shared.lifecycle import Stop
from shared.log_reader import Record
from shared.logs import of_record
from shared.messages import UnreadableRecord
from shared.metric_names import DEAD_LETTERS, MESSAGES_CONSUMED, messaging_labels
from shared.openai_batch import decode_request_line, prompt_of
from shared.publisher import OutgoingRecord, Publisher
from shared.record_headers import read_request_headers
from shared.replies import Replies
from shared.result_records import is_reply, result_record
from shared.telemetry import Telemetry
from shared.topics import Topics

log = structlog.get_logger(__name__)

POLL_TIMEOUT_MS = 1_000
# Suspects that the log does not hand out in this time are gone from it.
SUSPECTS_TIMEOUT_S = 30.0
STORE_BACKOFF_S = 5.0
# Bodies that are held, beside what the client has fetched.
HELD_BYTES_MAX = 64 * 1024 * 1024
KILLED_MESSAGE = "This request ended the worker's process each time it ran, at last three times alone."


class RequestFeed:
    """The way of one class's records; all feeds of a worker share `in_flight` and `apart`."""

    def __init__(
        self,
        *,
        assigned: AssignedLog,
        topics: Topics,
        claims: ClaimStore,
        publisher: Publisher,
        replies: Replies,
        room: EngineRoom,
        telemetry: Telemetry,
        in_flight: InFlight,
        apart: asyncio.Lock,
        lines_per_second: Callable[[], float | None],
        worker_id: str,
    ) -> None:
        self._assigned = assigned
        self._topics = topics
        self._claims = claims
        self._publisher = publisher
        self._replies = replies
        self._room = room
        self._telemetry = telemetry
        self._in_flight = in_flight
        self._apart = apart
        self._lines_per_second = lines_per_second
        self._worker_id = worker_id
        # Of the records that were polled last.
        self._traced: list[str] = []
        self._num_consumed = telemetry.counter(MESSAGES_CONSUMED)
        self._num_parked = telemetry.counter(DEAD_LETTERS)

    async def run(self, stop: Stop) -> None:
        """Take records until asked to stop."""
        while not stop.requested:
            num_records = self._num_to_fetch()
            if num_records == 0:
                await self._in_flight.wait()
                continue
            records = await self._assigned.poll(timeout_ms=POLL_TIMEOUT_MS, max_records=num_records)
            if records:
                self._num_consumed.add(len(records), messaging_labels("poll", self._assigned.topic))
            if self._assigned.num_suspects:
                async with self._apart:
                    await self._try_suspects(stop, records)
                continue
            if records and self._assigned.is_suspicious:
                await self._assigned.commit()
            await self._submit(records, stop, self._apart)

    def _num_to_fetch(self) -> int:
        if self._in_flight.num_bytes > HELD_BYTES_MAX:
            return 0
        beside = look_ahead(self._room.window, self._lines_per_second())
        return lines_to_fetch(self._room.window + beside - self._in_flight.of(self._assigned.topic), beside)

    async def _submit(
        self, records: Sequence[Record], stop: Stop, lock: contextlib.AbstractAsyncContextManager[None]
    ) -> None:
        """Hand records over under the lock; what is not handed over when the worker stops is delivered again."""
        jobs = list[Job]()
        for record in records:
            if _has_claim(record):  # nobody has counted its bytes yet
                await self._hand_over(jobs, lock)
                jobs = []
                await self._until_light(stop)
            try:
                value = await self._value_of(record, stop)
                if stop.requested:
                    return
                job = self._job_of(record, value)
            except UnreadableRecord as error:
                await self._park(record, str(error))
                continue
            if self._assigned.is_condemned(job.tp, job.offset):
                await self._end_condemned(record, job)
            else:
                jobs.append(job if job.headers.traceparent is None else self._in_trace(job))
        await self._hand_over(jobs, lock)
        self._trace_poll(len(records))

    async def _hand_over(self, jobs: list[Job], lock: contextlib.AbstractAsyncContextManager[None]) -> None:
        if jobs:
            async with lock:
                self._in_flight.add(jobs)
                self._room.submit(jobs)

    async def _value_of(self, record: Record, stop: Stop) -> bytes:
        """The line, from wherever it is; a store that is away is waited for, nothing when the worker stops first."""
        claim = dict(record.headers or ()).get("claim") if _has_claim(record) else None
        if not claim:
            return record.value or b""
        while not stop.requested:
            try:
                return await self._claims.fetch(parse_claim(claim.decode(errors="replace")))
            except (UnavailableError, ObjectStoreError) as error:
                log.warning("large line is fetched later", reason=str(error))
                await stop.wait(STORE_BACKOFF_S)
        return b""

    async def _until_light(self, stop: Stop) -> None:
        while self._in_flight.num_bytes > HELD_BYTES_MAX and not stop.requested:
            await self._in_flight.wait()

    async def _try_suspects(self, stop: Stop, taken: list[Record]) -> None:
        """Run the records that may have killed two owners in small groups, with nothing beside them."""
        size = group_size(self._assigned.num_suspects)
        waits_until = time.monotonic() + SUSPECTS_TIMEOUT_S
        while not stop.requested and (taken or self._assigned.num_suspects):
            await self._until_idle(stop)
            if not taken:
                taken = await self._assigned.poll(timeout_ms=POLL_TIMEOUT_MS, max_records=size, only_suspects=True)
            group, taken = taken[:size], taken[size:]
            if group:
                await self._assigned.begin_trial(group)
                await self._submit(group, stop, contextlib.nullcontext())
                await self._until_idle(stop)
                if not stop.requested:
                    await self._assigned.end_trial()
                waits_until = time.monotonic() + SUSPECTS_TIMEOUT_S
            elif time.monotonic() > waits_until:
                log.warning("suspects are not in the log any more")
                self._assigned.acquit()

    async def _until_idle(self, stop: Stop) -> None:
        while self._in_flight.total and not stop.requested:
            await self._in_flight.wait()

    async def _end_condemned(self, record: Record, job: Job) -> None:
        """A record that killed its process each time it ran alone ends as an error line and a dead letter."""
        log.error("record condemned", custom_id=job.custom_id, **of_record(record))
        completion = unanswered(job.headers, job.custom_id, WORKER_KILLED, KILLED_MESSAGE)
        await self._publisher.send(dead_letter(self._topics, record, WORKER_KILLED, KILLED_MESSAGE))
        self._num_parked.add(1, {"error_type": WORKER_KILLED})
        self._telemetry.parked(record.topic, record.partition, record.offset, WORKER_KILLED, record.headers)
        await self._answer(finished_record(self._topics, Done(job, completion), self._worker_id))
        self._assigned.finish(job.tp, job.offset)

    async def _answer(self, record: OutgoingRecord) -> None:
        await (self._replies.send_all([record]) if is_reply(record) else self._publisher.send_all([record]))

    def _job_of(self, record: Record, value: bytes) -> Job:
        headers = read_request_headers(record.headers)
        try:
            line = decode_request_line(value)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise UnreadableRecord(f"not a request line: {error}") from None
        body, tp = bytes(line.body), TopicPartition(record.topic, record.partition)
        return Job(
            tp=tp,
            offset=record.offset,
            headers=headers,
            custom_id=line.custom_id,
            url=line.url,
            body=body,
            prompt=prompt_of(body),
            request_id=headers.answer_id,
            sent_at=record.timestamp / 1000,
            fetched_at=time.time(),
            redelivered=self._assigned.was_with_a_dead_worker(tp, record.offset),
        )

    def _trace_poll(self, num_records: int) -> None:
        """Once it is known which of them are traced."""
        traced, self._traced = self._traced, []
        with self._telemetry.records("poll", self._assigned.topic, traced, num_records):
            pass

    def _in_trace(self, job: Job) -> Job:
        """The job with a span of ours, if its record belongs to a trace that is kept."""
        if not self._telemetry.enabled:
            return job
        begun = line_traces.begin(job)
        if begun.caller is not None:
            self._traced.append(begun.caller)
        return begun

    async def _park(self, record: Record, reason: str) -> None:
        """Put a record that cannot be read on the dead-letter topic, with the reason, and be done with it."""
        log.warning("record parked", reason=reason, **of_record(record))
        await self._publisher.send(dead_letter(self._topics, record, UNREADABLE, reason))
        self._num_parked.add(1, {"error_type": UNREADABLE})
        self._telemetry.parked(record.topic, record.partition, record.offset, UNREADABLE, record.headers)
        with contextlib.suppress(UnreadableRecord):  # whoever is named in it is told; a batch's line is found missing
            headers = read_request_headers(record.headers)
            if headers.is_single:
                line = unanswered(headers, "", UNREADABLE, reason).value
                await self._answer(result_record(self._topics, headers, line, UNREADABLE))
        self._assigned.finish(TopicPartition(record.topic, record.partition), record.offset)


def _has_claim(record: Record) -> bool:
    return any(name == "claim" for name, _ in record.headers or ())
