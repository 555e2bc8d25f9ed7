"""How are records published, and when is one safe? SHELL: in batches of ours, sent again until the broker has them."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.structs import RecordMetadata

from shared.errors import UnavailableError
from shared.kafka import KAFKA_ERRORS, ask_broker
from shared.metric_names import MESSAGES_SENT, SEND_DURATION, messaging_labels
from shared.record_headers import Header
from shared.telemetry import Telemetry
from shared.topics import RECORD_BYTES_MAX

log = structlog.get_logger(__name__)

# A try of a send; the client's own limits are shorter, but not all of its waits have one.
SEND_TIMEOUT_S = 90.0
RESEND_BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
# From here on records of one partition become batches of ours, which cost a third of the client's way record by
# record; below, the client's own batches join what several callers send.
BATCH_RECORDS_MIN = 8
# Records between two breaths of the event loop: whoever else lives on it waits a millisecond or two, not thirty.
RECORDS_PER_TURN = 100
# What a record has beside key, value and headers, at most.
RECORD_OVERHEAD_BYTES = 64


class OutgoingRecord(msgspec.Struct, frozen=True):
    """A record to be published; `partition` is explicit because our partition rules are our own."""

    topic: str
    value: bytes | None
    partition: int | None = None
    key: bytes | None = None
    headers: Sequence[Header] = ()

    @property
    def num_bytes(self) -> int:
        """Its size on the wire, or a little more."""
        headers = sum(len(name) + len(value or b"") + 10 for name, value in self.headers)
        return len(self.value or b"") + len(self.key or b"") + headers + RECORD_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class _Sent:
    """A future of the client, and which records it stands for, in the order of their offsets."""

    future: "asyncio.Future[RecordMetadata]"
    indexes: Sequence[int]


class Publisher:
    """A producer that sends again what failed, until the broker has it or a limit passes."""

    def __init__(self, producer: AIOKafkaProducer, telemetry: Telemetry | None = None) -> None:
        self._producer = producer
        self._num_sent = telemetry.counter(MESSAGES_SENT) if telemetry else None
        self._duration = telemetry.histogram(SEND_DURATION) if telemetry else None

    async def ask_broker(self) -> None:
        """See that some broker answers; raises UnavailableError."""
        await ask_broker(self._producer.client)

    async def send_all(self, records: Sequence[OutgoingRecord]) -> list[RecordMetadata]:
        """Publish records and wait until each is acknowledged; results in the order of `records`.

        A record may land twice when an acknowledgement was lost. Raises UnavailableError after the last
        try, and MessageSizeTooLargeError at once.
        """
        if not records:
            return []
        began = time.monotonic()
        results: list[RecordMetadata | None] = [None] * len(records)
        waiting = list(range(len(records)))
        for attempt in range(len(RESEND_BACKOFF_S) + 1):
            waiting = await self._try(records, waiting, results)
            if not waiting:
                self._count(records, time.monotonic() - began)
                return [result for result in results if result is not None]
            if attempt < len(RESEND_BACKOFF_S):
                log.warning("sends failed, trying again", num_records=len(waiting), attempt=attempt + 1)
                await asyncio.sleep(RESEND_BACKOFF_S[attempt])
        raise UnavailableError(f"{len(waiting)} records for {records[waiting[0]].topic} were not acknowledged")

    def _count(self, records: Sequence[OutgoingRecord], duration_s: float) -> None:
        if self._num_sent is None or self._duration is None:
            return
        for topic, number in Counter(record.topic for record in records).items():
            labels = messaging_labels("send", topic)
            self._num_sent.add(number, labels)
            self._duration.record(duration_s, labels)

    async def send(self, record: OutgoingRecord) -> RecordMetadata:
        """Publish one record and wait for its acknowledgement."""
        return (await self.send_all([record]))[0]

    async def _try(
        self, records: Sequence[OutgoingRecord], indexes: list[int], results: list[RecordMetadata | None]
    ) -> list[int]:
        sent: list[_Sent] = []
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                for group in _by_partition(records, indexes):
                    if len(group) < BATCH_RECORDS_MIN or records[group[0]].partition is None:
                        await self._send_singly(records, group, sent)
                    else:
                        await self._send_batches(records, group, sent)
                for each in sent:
                    await _settle(each, results)
        except TimeoutError:
            log.warning("sends took too long", topic=records[indexes[0]].topic, timeout_s=SEND_TIMEOUT_S)
        return [index for index in indexes if results[index] is None]

    async def _send_singly(self, records: Sequence[OutgoingRecord], group: list[int], sent: list[_Sent]) -> None:
        for index in group:
            r = records[index]
            try:
                future = await self._producer.send(
                    r.topic, value=r.value, key=r.key, partition=r.partition, headers=list(r.headers)
                )
            except MessageSizeTooLargeError:
                raise
            except KAFKA_ERRORS:
                continue
            sent.append(_Sent(future, (index,)))

    async def _send_batches(self, records: Sequence[OutgoingRecord], group: list[int], sent: list[_Sent]) -> None:
        topic, partition = records[group[0]].topic, records[group[0]].partition
        rest = iter(group)
        index = next(rest, None)
        while index is not None:
            batch, mine = self._producer.create_batch(), list[int]()
            while index is not None and _append(batch, records[index]):
                mine.append(index)
                index = next(rest, None)
                if len(mine) % RECORDS_PER_TURN == 0:
                    await asyncio.sleep(0)
            batch.close()
            try:
                future = await self._producer.send_batch(batch, topic, partition=partition)
            except KAFKA_ERRORS:
                return  # the next try has them
            sent.append(_Sent(future, mine))


def _by_partition(records: Sequence[OutgoingRecord], indexes: list[int]) -> list[list[int]]:
    """Indexes of the records of each partition, in their order."""
    groups: dict[tuple[str, int | None], list[int]] = {}
    for index in indexes:
        record = records[index]
        groups.setdefault((record.topic, record.partition), []).append(index)
    return list(groups.values())


def _append(batch: Any, r: OutgoingRecord) -> bool:
    """Whether the record found room; a batch always has room for its first one."""
    if len(r.value or b"") > RECORD_BYTES_MAX // 2 and r.num_bytes > RECORD_BYTES_MAX:
        raise MessageSizeTooLargeError(f"a record of {r.num_bytes} bytes, at most {RECORD_BYTES_MAX} are allowed")
    return batch.append(timestamp=None, key=r.key, value=r.value, headers=list(r.headers)) is not None


async def _settle(sent: _Sent, results: list[RecordMetadata | None]) -> None:
    try:
        first = await sent.future
    except MessageSizeTooLargeError:
        raise
    except KAFKA_ERRORS:
        return
    for number, index in enumerate(sent.indexes):
        results[index] = first._replace(offset=first.offset + number) if number else first
