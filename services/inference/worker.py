"""How does a request record become a completion record? SHELL: one loop takes, one publishes, one tells.

Take only what fits into the window and beside it, publish what ended, and only when the broker has the completion mark
the offset done. Runs on the Kafka thread's loop; which line enters the engine when is the engine room's.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import structlog
from aiokafka import TopicPartition
from opentelemetry.trace import Span, SpanKind

from services.inference.assigned_log import AssignedLog
from services.inference.completion import completion_headers_for, unanswered
from services.inference.engine_room import EngineRoom
from services.inference.heartbeat import WorkerIdentity, WorkerLoad, heartbeat
from services.inference.job import Done, Job
from services.inference.suspicion import group_size
from services.inference.throughput import Throughput
from services.inference.window import lines_to_fetch, look_ahead
from shared import identifiers
from shared.dead_letters import dead_letter
from shared.lifecycle import Deadline, Stop, StopReason
from shared.log_reader import LogReader, Record
from shared.messages import CancelHint, UnreadableRecord
from shared.openai_batch import decode_request_line, prompt_of
from shared.pace import Pace
from shared.publisher import OutgoingRecord, Publisher
from shared.record_headers import RequestHeaders, completion_headers, read_request_headers
from shared.telemetry import Telemetry, context_from, line_attributes, messaging_attributes, traceparent_of
from shared.topics import Topics, completion_key, partition_of, shard_of_line

log = structlog.get_logger(__name__)

POLL_TIMEOUT_MS = 500
# Between two groups of completions: a group costs client and broker nearly the same, however many are in it.
PUBLISH_INTERVAL_S = 0.02
IDLE_COMMIT_S = 2.0
CONTROL_POLL_TIMEOUT_MS = 1000
# Share of the drain deadline for lines in flight; the rest is for the last publish, commit and close.
DRAIN_SHARE = 0.7
DRAIN_POLL_S = 0.05
PROBE_INTERVAL_S = 5.0
# Suspects that the log does not hand out in this time are gone from it.
SUSPECTS_TIMEOUT_S = 30.0
# Bodies that are held, beside what the client has fetched.
HELD_BYTES_MAX = 64 * 1024 * 1024
KILLED_CODE = "worker_killed"
KILLED_MESSAGE = "This request ended the worker's process each time it ran, at last when it ran alone."


class Worker:
    """One worker of one pool."""

    def __init__(
        self,
        *,
        identity: WorkerIdentity,
        topics: Topics,
        assigned: AssignedLog,
        control: LogReader,
        publisher: Publisher,
        room: EngineRoom,
        telemetry: Telemetry,
        on_silence: Callable[[str], None],
    ) -> None:
        self._on_silence = on_silence
        self._identity = identity
        self._topics = topics
        self._assigned = assigned
        self._control = control
        self._publisher = publisher
        self._room = room
        self._telemetry = telemetry
        self._throughput = Throughput()
        self._num_in_flight = self._num_bytes = 0
        self._freed = asyncio.Event()
        self._finished = asyncio.Event()
        self._to_commit = asyncio.Event()
        loop = asyncio.get_running_loop()
        room.connect(partial(loop.call_soon_threadsafe, self._finished.set))

    async def run(
        self, stop: Stop, *, drain_timeout_s: float, heartbeat_s: float, commit_interval_s: float, silence_s: float
    ) -> None:
        """Work until asked to stop, then drain inside the deadline. A side task that fails stops the worker."""
        async with asyncio.TaskGroup() as group:
            take = group.create_task(self._take(stop), name="take")
            sides = [
                group.create_task(self._publish_finished(), name="publish"),
                group.create_task(self._commit_regularly(commit_interval_s), name="commit"),
                group.create_task(self._send_heartbeats(heartbeat_s), name="heartbeat"),
                group.create_task(self._follow_control(), name="control"),
                group.create_task(self._listen_to_engine(silence_s), name="probe"),
            ]
            await stop.wait()
            self._freed.set()
            await asyncio.wait({take})
            self._num_in_flight -= await asyncio.wrap_future(self._room.drop_waiting())
            if stop.reason is StopReason.SHUTDOWN:
                await self._drain(Deadline(drain_timeout_s * DRAIN_SHARE))
            self._room.abandon()
            for task in sides:
                task.cancel()
        if stop.reason is StopReason.SHUTDOWN:
            await self._say_goodbye()

    async def _take(self, stop: Stop) -> None:
        while not stop.requested:
            num_records = self._num_to_fetch()
            if num_records == 0:
                self._freed.clear()
                await self._freed.wait()
                continue
            records = await self._assigned.poll(timeout_ms=POLL_TIMEOUT_MS, max_records=num_records)
            if self._assigned.num_suspects:
                await self._try_suspects(stop, records)
                continue
            if records and self._assigned.is_suspicious:
                await self._assigned.commit()
            await self._submit(records)

    def _num_to_fetch(self) -> int:
        """Records to poll now; all that is not published counts, so that a slow broker bounds what is held."""
        if self._num_bytes > HELD_BYTES_MAX:
            return 0
        beside = look_ahead(self._room.window, self._throughput.lines_per_second)
        return lines_to_fetch(self._room.window + beside - self._num_in_flight, beside)

    async def _submit(self, records: Sequence[Record]) -> None:
        jobs = []
        for record in records:
            try:
                job = self._job_of(record)
            except UnreadableRecord as error:
                await self._park(record, str(error))
                continue
            if self._assigned.is_condemned(job.tp, job.offset):
                await self._end_condemned(record, job)
            else:
                jobs.append(job)
        if jobs:
            self._num_in_flight += len(jobs)
            self._num_bytes += sum(len(job.body) for job in jobs)
            self._room.submit(jobs)

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
                await self._submit(group)
                await self._until_idle(stop)
                if not stop.requested:
                    await self._assigned.end_trial()
                waits_until = time.monotonic() + SUSPECTS_TIMEOUT_S
            elif time.monotonic() > waits_until:
                log.warning("suspects are not in the log any more")
                self._assigned.acquit()

    async def _until_idle(self, stop: Stop) -> None:
        while self._num_in_flight and not stop.requested:
            self._freed.clear()
            await self._freed.wait()

    async def _end_condemned(self, record: Record, job: Job) -> None:
        """A record that killed its process when it ran alone ends as an error line and a dead letter."""
        log.error(
            "record condemned",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            line=job.headers.line,
        )
        completion = unanswered(job.headers, job.custom_id, KILLED_CODE, KILLED_MESSAGE)
        await self._publisher.send(dead_letter(self._topics, record, KILLED_MESSAGE))
        await self._publisher.send(self._completion_record(Done(job, completion)))
        self._assigned.finish(job.tp, job.offset)

    def _job_of(self, record: Record) -> Job:
        headers = read_request_headers(record.headers)
        try:
            line = decode_request_line(record.value or b"")
        except (msgspec.MsgspecError, RecursionError) as error:
            raise UnreadableRecord(f"not a request line: {error}") from None
        body = bytes(line.body)
        span = self._open_span(record, headers, line.custom_id)
        if span is not None:
            headers = msgspec.structs.replace(headers, traceparent=traceparent_of(span))
        return Job(
            tp=TopicPartition(record.topic, record.partition),
            offset=record.offset,
            headers=headers,
            custom_id=line.custom_id,
            url=line.url,
            body=body,
            prompt=prompt_of(body),
            request_id=identifiers.request_id(headers.batch_id, headers.line),
            span=span,
        )

    def _open_span(self, record: Record, headers: RequestHeaders, custom_id: str) -> Span | None:
        if not headers.traceparent or not self._telemetry.enabled:
            return None
        attributes = messaging_attributes("process", "process", record.topic, record.partition, record.offset)
        attributes |= {"messaging.consumer.group.name": record.topic}
        attributes |= line_attributes(headers.batch_id, headers.line, custom_id)
        parent = context_from(headers.traceparent)
        return self._telemetry.tracer.start_span(f"process {record.topic}", parent, SpanKind.CONSUMER, attributes)

    async def _publish_finished(self) -> None:
        pace = Pace(PUBLISH_INTERVAL_S)
        while True:
            await self._finished.wait()
            await pace.turn()
            self._finished.clear()
            done = self._room.take()
            if not done:
                continue
            await self._publisher.send_all([self._completion_record(d) for d in done])
            for d in done:
                self._assigned.finish(d.job.tp, d.job.offset)
                if d.job.span is not None:
                    d.job.span.end()
            self._to_commit.set()
            self._num_in_flight -= len(done)
            self._num_bytes -= sum(len(d.job.body) for d in done)
            self._throughput.note(len(done), time.monotonic(), is_idle=not self._num_in_flight)
            self._freed.set()

    def _completion_record(self, done: Done) -> OutgoingRecord:
        headers = done.job.headers
        topic = self._topics.completions
        key = completion_key(headers.batch_id, shard_of_line(headers.line))
        return OutgoingRecord(
            topic=topic.name,
            value=done.completion.value,
            key=key,
            partition=partition_of(key, topic.partitions),
            headers=completion_headers(completion_headers_for(headers, done.completion, headers.traceparent)),
        )

    async def _park(self, record: Record, reason: str) -> None:
        """Put a record that cannot be read on the dead-letter topic, with the reason, and be done with it."""
        log.warning(
            "record parked", topic=record.topic, partition=record.partition, offset=record.offset, reason=reason
        )
        await self._publisher.send(dead_letter(self._topics, record, reason))
        self._assigned.finish(TopicPartition(record.topic, record.partition), record.offset)

    async def _commit_regularly(self, interval_s: float) -> None:
        """Soon after something was finished; at other times now and then, because a commit may have been refused."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(interval_s, IDLE_COMMIT_S)):
                    await self._to_commit.wait()
            self._to_commit.clear()
            await self._assigned.commit()
            await asyncio.sleep(interval_s)

    async def _send_heartbeats(self, interval_s: float) -> None:
        while True:
            state = "ready" if self._assigned.joined else "joining"
            await self._publisher.send(self._beat(state))
            await asyncio.sleep(interval_s if self._assigned.joined else interval_s / 10)

    def _beat(self, state: str) -> OutgoingRecord:
        load = WorkerLoad(self._num_in_flight, self._room.window, self._assigned.partitions, self._room.adapters())
        return heartbeat(self._topics, self._identity, state, load, int(time.time() * 1000))

    async def _listen_to_engine(self, silence_s: float) -> None:
        """Notice an engine, or a loop that it blocks, that gives no sign of life."""
        while True:
            await asyncio.sleep(min(PROBE_INTERVAL_S, silence_s))
            try:
                async with asyncio.timeout(silence_s):
                    await asyncio.wrap_future(self._room.probe())
            except TimeoutError:
                self._on_silence(f"the engine gave no sign of life for {silence_s:.0f} s")
            except Exception as error:  # noqa: BLE001 - a dead engine says so to who watches for that
                log.info("probe failed", error=repr(error))

    async def _follow_control(self) -> None:
        decoder = msgspec.json.Decoder(CancelHint)
        await self._control.open({TopicPartition(self._topics.control.name, 0): None})
        while True:
            for record in await self._control.poll(timeout_ms=CONTROL_POLL_TIMEOUT_MS, max_records=500):
                try:
                    self._room.cancel_batch(decoder.decode(record.value or b"").batch_id)
                except msgspec.MsgspecError as error:
                    log.warning("control record ignored", offset=record.offset, reason=str(error))

    async def _drain(self, deadline: Deadline) -> None:
        while self._num_in_flight and deadline.remaining_s() > 0:
            await asyncio.sleep(DRAIN_POLL_S)
        log.info("drained", num_left=self._num_in_flight)

    async def _say_goodbye(self) -> None:
        await self._publisher.send(self._beat("stopped"))
