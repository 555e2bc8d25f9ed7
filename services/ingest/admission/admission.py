"""How do records of the intake become request records? SHELL: two steps over the log, decided elsewhere.

First each record is checked where it lies (`intake_record`) and goes to `admitted` or `batch-events`, where all records
about one request, or one batch, meet in one partition. From there requests that were not seen lately (`seen_requests`)
go to the workers, and events to their batch (`topic_batches`). An offset is committed when what came of its record is
acknowledged, so a record may be worked on twice and none is lost.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count

import msgspec
import structlog
from aiokafka import TopicPartition

from services.ingest.admission.batch_record import LINE, BatchEvent, read_event
from services.ingest.admission.group_log import GroupLog, Held, TakeOver, Unreadable
from services.ingest.admission.intake_headers import DeadLetter
from services.ingest.admission.intake_record import Admitted, IntakeRules, Refused, read_intake
from services.ingest.admission.seen_requests import SeenRequests
from services.ingest.admission.settings import IntakeBlock
from services.ingest.admission.topic_batches import TopicBatches
from services.ingest.limits import TenantLimits
from services.ingest.rate_limiter import RateLimiter
from shared.claim_store import ClaimStore
from shared.dead_letters import UNREADABLE, dead_letter
from shared.errors import HeadraceError, UnavailableError
from shared.lifecycle import Stop
from shared.log_reader import LogReader, Record
from shared.logs import of_record
from shared.messages import UnreadableRecord
from shared.metric_names import DEAD_LETTERS, INTAKE_RECORDS
from shared.openai_batch import unanswered_line
from shared.publisher import OutgoingRecord, Publisher
from shared.record_headers import RequestHeaders, admitted_headers, read_admitted_headers, request_headers
from shared.replies import Replies
from shared.result_records import is_reply, result_record
from shared.span_attributes import processed_request
from shared.telemetry import Telemetry
from shared.topics import Topics, admitted_key, partition_of

log = structlog.get_logger(__name__)

POLL_TIMEOUT_MS = 1_000
POLL_RECORDS = 1_000
# The API lives on the same loop.
RECORDS_PER_BREATH = 50
COMMIT_INTERVAL_S = 0.1
FAULT_BACKOFF_S = 1.0
# A poll while lines of batches come faster than they are written, and are left where they are.
FULL_POLL_MS = 100
READ_BACK_TIMEOUT_MS = 1_000
OVER_QUOTA_CODE = "rate_limit_exceeded"


class Admission:
    """Admits what comes through the partitions that this process was given."""

    def __init__(
        self,
        *,
        settings: IntakeBlock,
        topics: Topics,
        rules_of: Callable[[str], IntakeRules],
        limits: TenantLimits,
        new_log: Callable[[TakeOver, Held], GroupLog],
        new_reader: Callable[[], LogReader],
        batches: TopicBatches,
        claims: ClaimStore,
        publisher: Publisher,
        telemetry: Telemetry,
    ) -> None:
        """`rules_of` = what holds for a topic's records now; `new_log` makes the group's log, which asks us back."""
        self._settings = settings
        self._topics = topics
        self._rules_of = rules_of
        self._limits = limits
        self._log = new_log(self._take_over, self._held)
        self._batches = batches
        self._new_reader = new_reader
        self._claims = claims
        self._publisher = publisher
        self._telemetry = telemetry
        self._num_records, self._num_parked = telemetry.counter(INTAKE_RECORDS), telemetry.counter(DEAD_LETTERS)
        self._outcomes_of_turn: Counter[str] = Counter()
        self._replies = Replies(topics, publisher)
        self._rates = RateLimiter()
        self._seen: dict[int, SeenRequests] = {}
        self._turns = count()
        self._committed_at = -math.inf

    @property
    def joined(self) -> bool:
        """Whether the group has given this process its share."""
        return self._log.joined

    async def run(self, stop: Stop) -> None:
        """Admit until asked to stop; records in hand are done with before it returns."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._batches.run(stop), name="batches by topic")
            try:
                await self._admit(stop)
            finally:
                await self._log.leave()

    async def _admit(self, stop: Stop) -> None:
        while not stop.requested:
            try:
                await self._turn()
            except HeadraceError as error:
                log.warning("admission waits", reason=str(error))
                await self._log.leave()
                await stop.wait(FAULT_BACKOFF_S)
        await self._log.commit()

    def _held(self) -> Mapping[TopicPartition, int]:
        name = self._topics.batch_events.name
        return {TopicPartition(name, partition): offset for partition, offset in self._batches.held().items()}

    async def _turn(self) -> None:
        # What nobody can write yet is left in the log; requests without a batch do not wait for it.
        is_full = self._batches.is_full
        without, timeout_ms = (self._topics.batch_events.name, FULL_POLL_MS) if is_full else ("", POLL_TIMEOUT_MS)
        records = await self._log.poll(timeout_ms=timeout_ms, max_records=POLL_RECORDS, without=without)
        if records:
            outcomes = await self._outcomes(records)
            await self._publisher.send_all([r for r in outcomes if not is_reply(r)])
            await self._replies.send_all([r for r in outcomes if is_reply(r)])
            self._log.finish()
            self._count()
        if not records or time.monotonic() - self._committed_at >= COMMIT_INTERVAL_S:
            await self._log.commit()
            self._committed_at = time.monotonic()

    def _count(self) -> None:
        for outcome, number in self._outcomes_of_turn.items():
            self._num_records.add(number, {"outcome": outcome})
        self._outcomes_of_turn.clear()

    def _parked(self, record: Record, error: str, reason: str) -> OutgoingRecord:
        log.warning("record parked", reason=reason, **of_record(record))
        self._outcomes_of_turn["parked"] += 1
        self._num_parked.add(1, {"error_type": error})
        self._telemetry.parked(record.topic, record.partition, record.offset, error, record.headers)
        return dead_letter(self._topics, record, error, reason)

    async def _lightened(self, record: OutgoingRecord) -> OutgoingRecord:
        """An admitted request whose line is in the store if it is large; lines of batches go there anyway."""
        if record.topic != self._topics.admitted.name or not self._claims.is_large(record.value or b""):
            return record
        try:
            claim = await self._claims.leave_request(record.value or b"")
        except UnavailableError as error:
            log.warning("large line stays in its record", reason=str(error))
            return record
        return msgspec.structs.replace(record, value=b"", headers=[*record.headers, ("claim", claim.header().encode())])

    async def _outcomes(self, records: Sequence[Record | Unreadable]) -> list[OutgoingRecord]:
        """What comes of each record: one record, or none for a repeated request."""
        rules = {topic: self._rules_of(topic) for topic in {record.topic for record in records}}
        now_s = time.time()
        outgoing = []
        for number, record in enumerate(records, start=1):
            if number % RECORDS_PER_BREATH == 0:
                await asyncio.sleep(0)
            found: OutgoingRecord | None
            if isinstance(record, Unreadable):
                found = self._parked(record.as_record(), UNREADABLE, record.reason)
            elif record.topic == self._topics.admitted.name:
                found = self._forwarded(record)
            elif record.topic == self._topics.batch_events.name:
                found = self._taken(record)
            else:
                found = self._judged(record, rules[record.topic], now_s)
            if found is not None:
                outgoing.append(await self._lightened(found))
        return outgoing

    def _judged(self, record: Record, rules: IntakeRules, now_s: float) -> OutgoingRecord:
        try:
            decided = read_intake(record.value, record.headers or (), rules, now_s)
        except DeadLetter as problem:
            return self._parked(record, problem.error, str(problem))
        except Exception as error:
            # A record that our own code cannot stand must not stop everybody else's.
            log.exception("record crashed admission", topic=record.topic, offset=record.offset)
            return self._parked(record, UNREADABLE, f"admission failed: {error!r}")
        match decided:
            case Admitted(headers=headers, custom_id=custom_id, pool=pool):
                refusal = self._over_quota(headers, custom_id, now_s)
                return self._refused(refusal) if refusal else self._admitted(record, headers, custom_id, pool)
            case BatchEvent():
                headers = RequestHeaders(
                    tenant=decided.tenant, request=decided.custom_id or decided.name, deadline_s=int(now_s)
                )
                refusal = self._over_quota(headers, headers.request, now_s) if decided.kind == LINE else None
                return self._refused(refusal) if refusal else self._event(decided)
            case Refused():
                return self._refused(decided)

    def _refused(self, refusal: Refused) -> OutgoingRecord:
        headers, code = refusal.headers, refusal.code
        self._outcomes_of_turn["refused"] += 1
        line = unanswered_line(
            answer_id=headers.answer_id, custom_id=refusal.custom_id, code=code, message=refusal.message
        )
        return result_record(self._topics, headers, line, code)

    def _over_quota(self, headers: RequestHeaders, custom_id: str, now_s: float) -> Refused | None:
        per_minute = self._limits.of(headers.tenant).intake_per_minute
        if per_minute is None:
            return None
        wait_s = self._rates.take(headers.tenant, per_minute, now_s)
        if wait_s is None:
            return None
        text = f"Rate limit reached: {per_minute} records a minute. Please try again in {wait_s} s."
        return Refused(headers, custom_id, OVER_QUOTA_CODE, text)

    def _event(self, event: BatchEvent) -> OutgoingRecord:
        self._outcomes_of_turn["batch"] += 1
        topic, key = self._topics.batch_events, admitted_key(event.tenant, event.name)
        return OutgoingRecord(topic.name, event.value, partition_of(key, topic.partitions), key, event.headers())

    def _admitted(self, record: Record, headers: RequestHeaders, custom_id: str, pool: str) -> OutgoingRecord:
        self._outcomes_of_turn["admitted"] += 1
        topic = self._topics.admitted
        key = admitted_key(headers.tenant, headers.request)
        return OutgoingRecord(
            topic.name,
            record.value,
            partition_of(key, topic.partitions),
            key,
            admitted_headers(self._traced(record, headers, custom_id), pool),
        )

    def _traced(self, record: Record, headers: RequestHeaders, custom_id: str) -> RequestHeaders:
        """Continue the producer's trace."""
        if headers.traceparent is None:
            return headers
        attributes = partial(processed_request, record.topic, record.partition, record.offset, headers, custom_id)
        span = self._telemetry.begin_process(record.topic, attributes, headers.traceparent)
        if span is None:
            return headers
        self._telemetry.end(span)
        return headers.with_traceparent(span.traceparent)

    def _forwarded(self, record: Record) -> OutgoingRecord | None:
        """The request record of an admitted one, unless it was seen lately."""
        try:
            headers, pool = read_admitted_headers(record.headers)
        except UnreadableRecord as error:
            return self._parked(record, UNREADABLE, str(error))
        if not self._seen[record.partition].is_new(headers.tenant, headers.request, record.timestamp):
            self._outcomes_of_turn["repeated"] += 1
            log.debug("request repeated", tenant=headers.tenant, request=headers.request)
            return None
        topic = self._topics.requests(pool, headers.request_class)
        partition = next(self._turns) % topic.partitions
        return OutgoingRecord(topic.name, record.value, partition, None, request_headers(headers))

    def _taken(self, record: Record) -> OutgoingRecord | None:
        """Give a batch's event to its batch."""
        try:
            self._batches.take(read_event(record.headers, record.value), record)
        except (UnreadableRecord, ValueError) as error:
            return self._parked(record, UNREADABLE, str(error))
        return None

    async def _take_over(self, positions: Mapping[TopicPartition, int]) -> None:
        """Learn which requests the owners before have seen: the records before the offset where this one begins."""
        mine = {tp: offset for tp, offset in positions.items() if tp.topic == self._topics.admitted.name}
        new = {tp.partition: offset for tp, offset in mine.items()}
        await self._batches.take_over({tp.partition for tp in positions if tp.topic == self._topics.batch_events.name})
        block = self._settings
        self._seen = {n: SeenRequests(int(block.window_s * 1000), block.window_requests) for n in new}
        if not any(new.values()):
            return
        reader = self._new_reader()
        try:
            await reader.open(dict.fromkeys(mine))
            begins = dict(reader.positions)
            await reader.close()
            starts = {tp: max(begins[tp], end - block.window_requests) for tp, end in mine.items()}
            behind = {tp: start for tp, start in starts.items() if start < mine[tp]}
            if behind:
                await reader.open(behind)
                await self._read_back(reader, mine)
        finally:
            await reader.close()

    async def _read_back(self, reader: LogReader, ends: Mapping[TopicPartition, int]) -> None:
        while any(offset < ends[tp] for tp, offset in reader.positions.items()):
            for record in await reader.poll(timeout_ms=READ_BACK_TIMEOUT_MS, max_records=POLL_RECORDS):
                if record.offset >= ends[TopicPartition(record.topic, record.partition)]:
                    continue
                try:
                    headers, _ = read_admitted_headers(record.headers)
                except UnreadableRecord:
                    continue
                self._seen[record.partition].is_new(headers.tenant, headers.request, record.timestamp)
