"""Reading and writing the log against a real broker."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from shared.errors import SetupError, UnavailableError
from shared.kafka import make_producer, start_client, stop_client
from shared.log_reader import LogReader, LogTruncated, Record
from shared.publisher import OutgoingRecord, Publisher
from shared.settings import KafkaSettings
from shared.topic_setup import prepare_topics
from shared.topics import Topics
from tests.providers import Server


@pytest.fixture
def settings(real_kafka: Server, topic_prefix: str) -> KafkaSettings:
    return KafkaSettings(bootstrap=real_kafka.address, topic_prefix=topic_prefix, create_topics=True)


@pytest.fixture
async def publisher(settings: KafkaSettings) -> AsyncIterator[Publisher]:
    producer = make_producer(settings)
    await start_client(producer, settings)
    yield Publisher(producer)
    await stop_client(producer)


async def create(settings: KafkaSettings, name: str, partitions: int, **config: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=config)])
    await admin.close()


async def test_topics_are_created_as_laid_out_and_accepted_the_second_time(settings: KafkaSettings) -> None:
    topics = Topics(settings).all_for(("m",))

    log_id = await prepare_topics(settings, topics)

    assert log_id
    without_leave = settings.model_copy(update={"create_topics": False})
    assert await prepare_topics(without_leave, topics) == log_id
    assert await prepare_topics(settings.model_copy(update={"log_id": "mine"}), topics) == "mine"


async def test_missing_topic_is_refused_without_leave_to_create(settings: KafkaSettings) -> None:
    without_leave = settings.model_copy(update={"create_topics": False})

    with pytest.raises(SetupError, match="CREATE_TOPICS=true"):
        await prepare_topics(without_leave, Topics(settings).all_for(()))


async def test_topic_with_other_partitions_or_cleanup_is_refused(settings: KafkaSettings) -> None:
    topics = Topics(settings)
    await create(settings, topics.completions.name, 3)
    with pytest.raises(SetupError, match="has 3 partitions, the settings say 4"):
        await prepare_topics(settings, [topics.completions])

    await create(settings, topics.files.name, 1, **{"cleanup.policy": "delete"})
    with pytest.raises(SetupError, match="it must be compact"):
        await prepare_topics(settings, [topics.files])


async def test_topic_that_the_largest_line_does_not_fit_into_is_refused(settings: KafkaSettings) -> None:
    topics = Topics(settings)
    await create(settings, topics.completions.name, 4)  # Kafka's own default is about a megabyte

    with pytest.raises(SetupError, match=r"max\.message\.bytes=\d+, it must be at least"):
        await prepare_topics(settings, [topics.completions])


async def test_no_broker_is_one_sentence() -> None:
    nowhere = KafkaSettings(bootstrap="127.0.0.1:9", request_timeout_s=1)

    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
        await prepare_topics(nowhere, [])


async def test_reader_returns_records_in_order_and_resumes(settings: KafkaSettings, publisher: Publisher) -> None:
    topic = f"{settings.topic_prefix}log"
    await create(settings, topic, 2)
    records = [OutgoingRecord(topic, str(n).encode(), n % 2, b"k", [("h", b"v")]) for n in range(100)]
    acknowledged = await publisher.send_all(records)
    assert [m.partition for m in acknowledged] == [n % 2 for n in range(100)]
    start = {TopicPartition(topic, 0): None, TopicPartition(topic, 1): 25}

    reader = LogReader(settings)
    await reader.open(start)
    found: list[Record] = []
    while len(found) < 75:
        found += await reader.poll(timeout_ms=500, max_records=20)

    assert [int(r.value or b"") for r in found if r.partition == 0] == list(range(0, 100, 2))
    assert [int(r.value or b"") for r in found if r.partition == 1] == list(range(51, 100, 2))
    assert reader.positions == await reader.end_offsets()
    assert await reader.poll(timeout_ms=50, max_records=1) == []
    await reader.close()
    assert await reader.poll(timeout_ms=50, max_records=1) == [], "reopens where it was"
    await reader.close()


async def test_batches_of_ours_hold_large_records_too_and_their_offsets_are_right(
    settings: KafkaSettings, publisher: Publisher
) -> None:
    topic = f"{settings.topic_prefix}large"
    await create(settings, topic, 2, **{"max.message.bytes": str(8 * 1024 * 1024)})
    sizes = [10, 3_000_000, 300_000, 1] * 10
    records = [OutgoingRecord(topic, b"%d " % n + b"x" * size, n % 2) for n, size in enumerate(sizes)]

    written = await publisher.send_all(records)

    reader, found = LogReader(settings), dict[tuple[int, int], bytes | None]()
    await reader.open({TopicPartition(topic, 0): 0, TopicPartition(topic, 1): 0})
    while len(found) < len(records):
        found |= {(r.partition, r.offset): r.value for r in await reader.poll(timeout_ms=500, max_records=20)}
    assert [found[m.partition, m.offset] for m in written] == [r.value for r in records]
    await reader.close()


async def test_reader_refuses_an_offset_that_is_not_in_the_log(settings: KafkaSettings) -> None:
    topic = f"{settings.topic_prefix}short"
    await create(settings, topic, 1)
    reader = LogReader(settings)
    await reader.open({TopicPartition(topic, 0): 1000})

    with pytest.raises(LogTruncated):
        for _ in range(20):
            await reader.poll(timeout_ms=500, max_records=1)
    await reader.close()


async def test_send_to_a_topic_that_is_missing_is_given_up(
    real_kafka: Server, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.publisher.RESEND_BACKOFF_S", (0.1,))
    impatient = KafkaSettings(bootstrap=real_kafka.address, request_timeout_s=1, rebalance_timeout_s=0.1)
    monkeypatch.setattr("shared.kafka.REQUEST_OVER_REBALANCE_S", 0.1)
    producer = make_producer(impatient)
    await start_client(producer, impatient)

    async with asyncio.timeout(60):
        with pytest.raises(UnavailableError, match="not acknowledged"):
            await Publisher(producer).send(OutgoingRecord(f"{topic_prefix}missing", b"x", 0))
    await stop_client(producer)
