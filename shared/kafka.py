"""How do we talk to Kafka? Every delivery option written out, every start, stop and send bounded. SHELL.

The rules behind the settings, each a trap of the client that was reproduced:
1. no deserializers, and any exception of a poll means that the positions are wrong (`log_reader`, `assigned_log`);
2. the fetch size is at least twice the largest record;
3. the assignment epoch is read after the poll returns;
4. no commit between `revoked` and `assigned`;
5. `request_timeout` is longer than `rebalance_timeout`;
6. `acks=all` and no idempotence: one refused record poisons an idempotent producer's partition, while a
   repeated record is harmless here. Failed sends are sent again by us;
7. `getmany` with a timeout, never a cancelled `getone`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IllegalOperation, KafkaError, MessageSizeTooLargeError
from aiokafka.structs import RecordMetadata

from shared.errors import UnavailableError
from shared.record_headers import Header
from shared.settings import KafkaSettings
from shared.topics import RECORD_BYTES_MAX

log = structlog.get_logger(__name__)

FETCH_BYTES_PER_PARTITION = 2 * RECORD_BYTES_MAX
PRODUCER_BATCH_BYTES = 256 * 1024
STOP_TIMEOUT_S = 10.0
# A try of a send; the client's own limits are shorter, but not all of its waits have one.
SEND_TIMEOUT_S = 90.0
RESEND_BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
# Longer than rebalance_timeout, or a slow rebalance makes every member time out and join again (rule 5).
REQUEST_OVER_REBALANCE_S = 10.0
# Time between polls is ours to watch, so the client's own limit is put out of the way.
MAX_POLL_INTERVAL_MS = 2**31 - 1

# The client raises from two roots that do not meet.
KAFKA_ERRORS = (KafkaError, IllegalOperation)


class Startable(Protocol):
    """What producers, consumers and admin clients have in common; the last one is closed, the others are stopped."""

    async def start(self) -> None: ...


@dataclass(frozen=True, slots=True)
class OutgoingRecord:
    """A record to be published; `partition` is explicit because our partition rules are our own."""

    topic: str
    value: bytes | None
    partition: int | None = None
    key: bytes | None = None
    headers: Sequence[Header] = field(default_factory=tuple)


async def start_client(client: Startable, settings: KafkaSettings) -> None:
    """Start a client inside the request timeout; raises UnavailableError."""
    try:
        async with asyncio.timeout(settings.request_timeout_s):
            await client.start()
    except (TimeoutError, *KAFKA_ERRORS) as error:
        await stop_client(client)
        raise UnavailableError(f"no Kafka broker answers at {settings.bootstrap}: {error or 'timeout'}") from error


async def stop_client(client: Any) -> None:
    """Stop a client; one that does not come back (brokers gone) is left behind after a limit."""
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await (client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())
    except (TimeoutError, *KAFKA_ERRORS) as error:
        log.warning("kafka client did not stop cleanly", client=type(client).__name__, error=repr(error))


def common_options(settings: KafkaSettings) -> dict[str, Any]:
    """Options that every client of ours shares."""
    return {
        "bootstrap_servers": settings.bootstrap,
        "request_timeout_ms": int(_request_timeout_s(settings) * 1000),
        "retry_backoff_ms": 100,
        "metadata_max_age_ms": 30_000,
    }


def consumer_options(settings: KafkaSettings) -> dict[str, Any]:
    """Options of every consumer: nothing is committed, reset or deserialised behind our back."""
    return common_options(settings) | {
        "enable_auto_commit": False,
        "max_poll_interval_ms": MAX_POLL_INTERVAL_MS,
        "max_partition_fetch_bytes": FETCH_BYTES_PER_PARTITION,
        "fetch_max_wait_ms": settings.fetch_max_wait_ms,
        "session_timeout_ms": int(settings.session_timeout_s * 1000),
        "heartbeat_interval_ms": int(settings.heartbeat_interval_s * 1000),
        "rebalance_timeout_ms": int(settings.rebalance_timeout_s * 1000),
        "check_crcs": True,
    }


def make_producer(settings: KafkaSettings) -> AIOKafkaProducer:
    """A producer that waits for all in-sync replicas."""
    return AIOKafkaProducer(
        **common_options(settings),
        acks="all",
        enable_idempotence=False,
        linger_ms=settings.linger_ms,
        max_batch_size=PRODUCER_BATCH_BYTES,
        max_request_size=RECORD_BYTES_MAX,
        compression_type=None if settings.compression == "none" else settings.compression,
    )


def make_log_consumer(settings: KafkaSettings, group: str | None = None) -> AIOKafkaConsumer:
    """A consumer for manual assignment; positions are always set, so a missing one is an error."""
    return AIOKafkaConsumer(**consumer_options(settings), group_id=group, auto_offset_reset="none")


# Sends between two breaths of the event loop: whoever else lives on it waits a millisecond or two, not thirty.
SENDS_PER_TURN = 20


class Publisher:
    """A producer that sends again what failed, until the broker has it or a limit passes."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    async def send_all(self, records: Sequence[OutgoingRecord]) -> list[RecordMetadata]:
        """Publish records and wait until each is acknowledged; results in the order of `records`.

        A record may land twice when an acknowledgement was lost. Raises UnavailableError after the last
        try, and MessageSizeTooLargeError at once.
        """
        if not records:
            return []
        results: list[RecordMetadata | None] = [None] * len(records)
        waiting = list(range(len(records)))
        for attempt in range(len(RESEND_BACKOFF_S) + 1):
            waiting = await self._try(records, waiting, results)
            if not waiting:
                return [result for result in results if result is not None]
            if attempt < len(RESEND_BACKOFF_S):
                log.warning("sends failed, trying again", num_records=len(waiting), attempt=attempt + 1)
                await asyncio.sleep(RESEND_BACKOFF_S[attempt])
        raise UnavailableError(f"{len(waiting)} records for {records[waiting[0]].topic} were not acknowledged")

    async def send(self, record: OutgoingRecord) -> RecordMetadata:
        """Publish one record and wait for its acknowledgement."""
        return (await self.send_all([record]))[0]

    async def _try(
        self, records: Sequence[OutgoingRecord], indexes: list[int], results: list[RecordMetadata | None]
    ) -> list[int]:
        pending: dict[int, asyncio.Future[RecordMetadata]] = {}
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                for number, index in enumerate(indexes, start=1):
                    if (future := await self._send_one(records[index])) is not None:
                        pending[index] = future
                    if number % SENDS_PER_TURN == 0:
                        await asyncio.sleep(0)
                for index, future in pending.items():
                    results[index] = await _acknowledged(future)
        except TimeoutError:
            log.warning("sends took too long", topic=records[indexes[0]].topic, timeout_s=SEND_TIMEOUT_S)
        return [index for index in indexes if results[index] is None]

    async def _send_one(self, r: OutgoingRecord) -> asyncio.Future[RecordMetadata] | None:
        try:
            return await self._producer.send(  # type: ignore[no-any-return]
                r.topic, value=r.value, key=r.key, partition=r.partition, headers=list(r.headers)
            )
        except MessageSizeTooLargeError:
            raise
        except KAFKA_ERRORS:
            return None


async def _acknowledged(future: asyncio.Future[RecordMetadata]) -> RecordMetadata | None:
    try:
        return await future
    except MessageSizeTooLargeError:
        raise
    except KAFKA_ERRORS:
        return None


def _request_timeout_s(settings: KafkaSettings) -> float:
    return max(settings.request_timeout_s, settings.rebalance_timeout_s + REQUEST_OVER_REBALANCE_S)
