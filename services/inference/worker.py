"""How does a request record become a completion record? SHELL: feeds take, one loop publishes, one tells.

A feed for each class takes only what fits into the window and beside it; what ended is published, and only when the
broker has it the offset is marked done. Runs on the Kafka thread's loop; which line enters the engine when is the
engine room's.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec
import structlog
from aiokafka import TopicPartition

from services.inference.assigned_log import AssignedLog
from services.inference.engine_room import EngineRoom
from services.inference.finished_record import finished_record
from services.inference.heartbeat import WorkerIdentity, WorkerLoad, heartbeat
from services.inference.in_flight import InFlight
from services.inference.job import Done
from services.inference.line_traces import LineTraces
from services.inference.request_feed import RequestFeed
from services.inference.throughput import Throughput
from services.inference.worker_metrics import WorkerMetrics
from shared.claim_store import ClaimStore
from shared.errors import ObjectStoreError, UnavailableError
from shared.lifecycle import Deadline, Stop, StopReason
from shared.log_reader import LogReader
from shared.messages import CancelHint
from shared.openai_batch import operation_of
from shared.pace import Pace
from shared.publisher import OutgoingRecord, Publisher
from shared.replies import Replies
from shared.result_records import is_reply
from shared.span_attributes import request_attributes
from shared.telemetry import Telemetry
from shared.topics import BATCH, RECORD_BYTES_MAX, Topics
from shared.trace_context import trace_of

log = structlog.get_logger(__name__)

# Between two groups of completions: a group costs client and broker nearly the same, however many are in it.
PUBLISH_INTERVAL_S = 0.02
IDLE_COMMIT_S = 2.0
CONTROL_POLL_TIMEOUT_MS = 1000
# Share of the drain deadline for lines in flight; the rest is for the last publish, commit and close.
DRAIN_SHARE = 0.7
DRAIN_POLL_S = 0.05
STORE_BACKOFF_S = 5.0
# What fits into a record.
INLINE_RESULT_BYTES_MAX = RECORD_BYTES_MAX - 16 * 1024
PROBE_INTERVAL_S = 5.0


class Worker:
    """One worker of one pool; `assigned` = the log of each class that it works for."""

    def __init__(
        self,
        *,
        identity: WorkerIdentity,
        topics: Topics,
        assigned: Mapping[str, AssignedLog],
        control: LogReader,
        claims: ClaimStore,
        publisher: Publisher,
        room: EngineRoom,
        telemetry: Telemetry,
        on_silence: Callable[[str], None],
    ) -> None:
        self._on_silence = on_silence
        self._identity = identity
        self._topics = topics
        self._assigned = assigned
        self._by_topic = {each.topic: each for each in assigned.values()}
        self._control = control
        self._claims = claims
        self._publisher = publisher
        self._room = room
        self._replies = Replies(topics, publisher)
        self._throughput = Throughput()
        self._in_flight = InFlight()
        apart = asyncio.Lock()
        self._feeds = [
            RequestFeed(
                assigned=each,
                topics=topics,
                claims=claims,
                publisher=publisher,
                replies=self._replies,
                room=room,
                telemetry=telemetry,
                in_flight=self._in_flight,
                apart=apart,
                lines_per_second=lambda: self._throughput.lines_per_second,
                worker_id=identity.worker_id,
            )
            for each in assigned.values()
        ]
        self._metrics = WorkerMetrics(
            telemetry,
            model=identity.model,
            engine=identity.engine,
            room=room,
            in_flight=self._in_flight,
            assigned=assigned,
        )
        self._telemetry = telemetry
        self._line_traces = LineTraces(telemetry, identity.engine, identity.model)
        # Traced lines whose offsets are not committed, by topic.
        self._unsettled: dict[str, list[str]] = {}
        self._claiming: set[asyncio.Task[None]] = set()
        self._finished = asyncio.Event()
        self._to_commit = asyncio.Event()
        loop = asyncio.get_running_loop()
        room.connect(partial(loop.call_soon_threadsafe, self._finished.set))

    async def run(
        self, stop: Stop, *, drain_timeout_s: float, heartbeat_s: float, commit_interval_s: float, silence_s: float
    ) -> None:
        """Work until asked to stop, then drain inside the deadline. A side task that fails stops the worker."""
        async with asyncio.TaskGroup() as group:
            feeds = {group.create_task(feed.run(stop), name="feed") for feed in self._feeds}
            sides = [
                group.create_task(self._publish_finished(group), name="publish"),
                group.create_task(self._commit_regularly(commit_interval_s), name="commit"),
                group.create_task(self._send_heartbeats(heartbeat_s), name="heartbeat"),
                group.create_task(self._follow_control(), name="control"),
                group.create_task(self._listen_to_engine(silence_s), name="probe"),
            ]
            await stop.wait()
            self._in_flight.wake()
            await asyncio.wait(feeds)
            dropped = await asyncio.wrap_future(self._room.drop_waiting())
            self._in_flight.remove(dropped)
            if stop.reason is StopReason.SHUTDOWN:
                await self._drain(Deadline(drain_timeout_s * DRAIN_SHARE))
            self._room.abandon()
            for task in [*sides, *self._claiming]:
                task.cancel()
        if stop.reason is StopReason.SHUTDOWN:
            await self._say_goodbye()

    async def _publish_finished(self, group: asyncio.TaskGroup) -> None:
        pace = Pace(PUBLISH_INTERVAL_S)
        while True:
            await self._finished.wait()
            await pace.turn()
            self._finished.clear()
            done = self._room.take()
            if not done:
                continue
            for large in filter(self._is_large, done):  # nobody waits for the store but they
                task = group.create_task(self._publish_large(large), name="publish large")
                self._claiming.add(task)
                task.add_done_callback(self._claiming.discard)
            small = [d for d in done if not self._is_large(d)]
            await self._publish(small, [self._record(d) for d in small])

    async def _publish(self, done: Sequence[Done], records: Sequence[OutgoingRecord]) -> None:
        lines = [d for d in done if d.job.caller is not None]
        traced = [d.job.headers.traceparent or "" for d in lines]
        parent = traced[0] if len(done) == len(traced) == 1 else None
        are_sent = False
        try:
            with self._telemetry.records("send", records[0].topic if records else "", traced, len(records), parent):
                await self._publisher.send_all([r for r in records if not is_reply(r)])
                await self._replies.send_all([r for r in records if is_reply(r)])
            are_sent = True
        finally:
            self._line_traces.tell(lines, are_sent=are_sent)
        for d in done:
            self._by_topic[d.job.tp.topic].finish(d.job.tp, d.job.offset)
            if not d.completion.succeeded:
                self._trace_failure(d)
        for d, traceparent in zip(lines, traced, strict=True):
            self._unsettled.setdefault(d.job.tp.topic, []).append(traceparent)
        self._to_commit.set()
        self._metrics.count(done)
        self._in_flight.remove([d.job for d in done])
        self._throughput.note(len(done), time.monotonic(), is_idle=not self._in_flight.total)

    def _trace_failure(self, done: Done) -> None:
        """A line that failed is in a trace even if it was not to be."""
        job, completion = done.job, done.completion
        if job.caller is None and done.entered_at:
            self._telemetry.failure(
                f"{operation_of(job.url)} {self._identity.model}",
                completion.error_code or "failed",
                request_attributes(job.headers, job.custom_id),
                parent=job.headers.traceparent,
                line=trace_of(job.headers),
                began_s=done.entered_at,
                ended_s=done.left_at,
            )

    async def _commit(self) -> None:
        unsettled, self._unsettled = self._unsettled, {}
        for each in self._assigned.values():
            traced = unsettled.get(each.topic, [])
            with self._telemetry.records("commit", each.topic, traced, len(traced)):
                await each.commit()

    def _record(self, done: Done, claim: str = "") -> OutgoingRecord:
        return finished_record(self._topics, done, self._identity.worker_id, claim)

    def _is_large(self, done: Done) -> bool:
        """Outsiders need not have access to the store: of an answer to them what fits into a record stays in it."""
        value, is_single = done.completion.value, done.job.headers.is_single
        return len(value) > INLINE_RESULT_BYTES_MAX if is_single else self._claims.is_large(value)

    async def _publish_large(self, done: Done) -> None:
        """Leave the line in the store first; while that is away, what fits into a record goes there after all."""
        claim = None
        while claim is None:
            try:
                claim = (await self._claims.leave_result(done.completion.value)).header()
            except (UnavailableError, ObjectStoreError) as error:
                log.warning("large line is left later", reason=str(error))
                if len(done.completion.value) <= INLINE_RESULT_BYTES_MAX:
                    claim = ""
                else:
                    await asyncio.sleep(STORE_BACKOFF_S)
        await self._publish([done], [self._record(done, claim)])

    async def _commit_regularly(self, interval_s: float) -> None:
        """Soon after something was finished; at other times now and then, because a commit may have been refused."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(interval_s, IDLE_COMMIT_S)):
                    await self._to_commit.wait()
            self._to_commit.clear()
            await self._commit()
            await asyncio.sleep(interval_s)

    async def _send_heartbeats(self, interval_s: float) -> None:
        while True:
            joined = all(each.joined for each in self._assigned.values())
            state = "ready" if joined else "joining"
            await self._publisher.send(self._beat(state))
            await asyncio.sleep(interval_s if joined else interval_s / 10)

    def _beat(self, state: str) -> OutgoingRecord:
        # Those of batches, because they say where the dispatcher puts lines.
        partitions = self._assigned[BATCH].partitions
        load = WorkerLoad(
            self._in_flight.total,
            self._room.window,
            partitions,
            self._room.adapters(),
            self._throughput.lines_per_second,
            self._metrics.input_tokens,
            self._metrics.output_tokens,
            self._room.load,
        )
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
        while self._in_flight.total and deadline.remaining_s() > 0:
            await asyncio.sleep(DRAIN_POLL_S)
        log.info("drained", num_left=self._in_flight.total)

    async def _say_goodbye(self) -> None:
        await self._publisher.send(self._beat("stopped"))
