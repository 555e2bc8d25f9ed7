"""How do we talk to Kafka? Every delivery option written out, every start, stop and send bounded. SHELL.

The rules behind the settings, each a trap of the client that was reproduced:
1. no deserializers, and any exception of a poll means that the positions are wrong (`log_reader`, `assigned_log`);
2. the fetch size is at least twice the largest record;
3. the assignment epoch is read after the poll returns;
4. no commit between `revoked` and `assigned`;
5. `request_timeout` is longer than `rebalance_timeout`;
6. `acks=all` and no idempotence: one refused record poisons an idempotent producer's partition, while a
   repeated record is harmless here. Failed sends are sent again by us (`publisher`);
7. `getmany` with a timeout, never a cancelled `getone`.
"""

import asyncio
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IllegalOperation, KafkaError

from shared.errors import UnavailableError
from shared.settings import KafkaSettings
from shared.topics import RECORD_BYTES_MAX

log = structlog.get_logger(__name__)

# How long a broker may hold a fetch of who works through a log: what else is there may have to wait for it.
WORK_FETCH_WAIT_MS = 500
# How often a client looks for something to fetch without a reason; it is told of records, room, seeks and rebalances,
# and its own 200 was a third of what an idle stack took.
FETCH_LOOK_MS = 1_000
FETCH_BYTES_PER_PARTITION = 2 * RECORD_BYTES_MAX
PRODUCER_BATCH_BYTES = 256 * 1024
STOP_TIMEOUT_S = 10.0
# Longer than rebalance_timeout, or a slow rebalance makes every member time out and join again (rule 5).
REQUEST_OVER_REBALANCE_S = 10.0
# Time between polls is ours to watch, so the client's own limit is put out of the way.
MAX_POLL_INTERVAL_MS = 2**31 - 1

# The client raises from two roots that do not meet.
KAFKA_ERRORS = (KafkaError, IllegalOperation)


class Startable(Protocol):
    """What producers, consumers and admin clients have in common; the last one is closed, the others are stopped."""

    async def start(self) -> None: ...


async def start_client(client: Startable, settings: KafkaSettings) -> None:
    """Start a client inside the request timeout; raises UnavailableError."""
    try:
        async with asyncio.timeout(settings.request_timeout_s):
            await client.start()
    except (TimeoutError, *KAFKA_ERRORS) as error:
        await stop_client(client)
        raise UnavailableError(f"no Kafka broker answers at {settings.bootstrap}: {error or 'timeout'}") from error


async def ask_broker(client: AIOKafkaClient) -> None:
    """See that some broker answers; raises UnavailableError."""
    if not await client.force_metadata_update():
        raise UnavailableError("no Kafka broker answers")


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
        "consumer_timeout_ms": FETCH_LOOK_MS,
        "session_timeout_ms": int(settings.session_timeout_s * 1000),
        "heartbeat_interval_ms": int(settings.heartbeat_interval_s * 1000),
        "rebalance_timeout_ms": int(settings.rebalance_timeout_s * 1000),
        "check_crcs": True,
    }


def work_options(settings: KafkaSettings) -> dict[str, Any]:
    """As `consumer_options`, for many partitions whose records wait in the client until there is room for them.

    A client asks a broker for one thing at a time: while the broker holds a fetch of the partitions that were read to
    their ends, the client cannot ask for more of the others. So it holds it for a shorter time.
    """
    held_ms = min(settings.fetch_max_wait_ms, WORK_FETCH_WAIT_MS)
    return consumer_options(settings) | {"fetch_max_wait_ms": held_ms}


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


def _request_timeout_s(settings: KafkaSettings) -> float:
    return max(settings.request_timeout_s, settings.rebalance_timeout_s + REQUEST_OVER_REBALANCE_S)
