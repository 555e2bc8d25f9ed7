"""The rules of talking to Kafka: each has a test or an assertion that notices when it is gone."""

import ast
import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError, RequestTimedOutError
from aiokafka.structs import RecordMetadata

from services.inference import assigned_log
from services.inference.settings import WorkerSettings
from shared import kafka, publisher
from shared.errors import UnavailableError
from shared.kafka import WORK_FETCH_WAIT_MS, consumer_options, make_log_consumer, make_producer
from shared.publisher import OutgoingRecord, Publisher
from shared.settings import KafkaSettings
from shared.topics import RECORD_BYTES_MAX, Topics

ROOT = Path(__file__).parents[3]
SETTINGS = KafkaSettings()


def calls_in_source() -> set[str]:
    """Names of all methods that our code calls."""
    trees = [
        ast.parse(path.read_text()) for top in ("services", "shared", "cli") for path in (ROOT / top).rglob("*.py")
    ]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    assert not any(isinstance(node, ast.AsyncFor) and "consumer" in ast.unparse(node.iter) for node in nodes)
    return {node.func.attr for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}


def test_records_are_polled_and_nothing_else() -> None:
    """Rules 1, 2 and 7: no deserializers, no iteration, no getone that could be cancelled, no pause that refetches."""
    assert not {"getone", "pause", "resume"} & calls_in_source()
    assert "getmany" in calls_in_source()
    assert not {"key_deserializer", "value_deserializer"} & set(consumer_options(SETTINGS))


def test_largest_record_fits_twice_into_a_fetch() -> None:
    """Rule 2: a batch that does not fit into the fetch size may be skipped."""
    largest = int(Topics(SETTINGS).completions.config()["max.message.bytes"])
    assert consumer_options(SETTINGS)["max_partition_fetch_bytes"] >= 2 * RECORD_BYTES_MAX
    assert consumer_options(SETTINGS)["max_partition_fetch_bytes"] > largest


@pytest.mark.parametrize("rebalance_s", [1.0, 10.0, 120.0])
def test_requests_outlast_a_rebalance(rebalance_s: float) -> None:
    """Rule 5."""
    options = consumer_options(KafkaSettings(rebalance_timeout_s=rebalance_s))
    assert options["request_timeout_ms"] >= options["rebalance_timeout_ms"] + 10_000


def arguments_of(monkeypatch: pytest.MonkeyPatch, client: str, make: Callable[[], object]) -> dict[str, Any]:
    """What a client is made with."""
    seen: dict[str, Any] = {}
    for module in (kafka, assigned_log):
        if hasattr(module, client):
            monkeypatch.setattr(module, client, lambda **options: seen.update(options))
    make()
    return seen


def test_nothing_is_committed_or_reset_behind_our_back(monkeypatch: pytest.MonkeyPatch) -> None:
    log = arguments_of(monkeypatch, "AIOKafkaConsumer", lambda: make_log_consumer(SETTINGS))
    assert log["auto_offset_reset"] == "none"
    worker = arguments_of(monkeypatch, "AIOKafkaConsumer", lambda: assigned_log.make_group_consumer(SETTINGS, "g", "i"))
    assert worker["auto_offset_reset"] == "earliest"
    assert worker["partition_assignment_strategy"] == (StickyPartitionAssignor,)
    for options in (log, worker):
        assert options["enable_auto_commit"] is False
        assert options["max_poll_interval_ms"] == 2**31 - 1, "time between polls is ours to watch"


def test_drained_partitions_hold_up_the_others_for_a_short_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """One fetch at a time: that of drained partitions stands between a worker and the rest of its queue."""

    def held(request_class: str, settings: KafkaSettings = SETTINGS) -> int:
        def make() -> object:
            return assigned_log.make_group_consumer(settings, "g", None, request_class)

        return int(arguments_of(monkeypatch, "AIOKafkaConsumer", make)["fetch_max_wait_ms"])

    assert held("batch") == WORK_FETCH_WAIT_MS < held("interactive") == SETTINGS.fetch_max_wait_ms
    assert held("batch", KafkaSettings(fetch_max_wait_ms=20)) == 20


def test_producer_waits_for_all_replicas_and_is_not_idempotent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 6."""
    options = arguments_of(monkeypatch, "AIOKafkaProducer", lambda: make_producer(SETTINGS))
    assert options["acks"] == "all"
    assert options["enable_idempotence"] is False
    assert options["max_request_size"] <= RECORD_BYTES_MAX


def test_static_ids_are_for_stable_slots_only() -> None:
    assert WorkerSettings().static_member is False


class FullAfterTen:
    """A batch of the client."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    def append(self, *, value: bytes, **_: Any) -> object | None:
        if len(self.values) == 10:
            return None
        self.values.append(value)
        return self

    def close(self) -> None:
        """Nothing to do."""


class FlakyProducer:
    """Fails as told, then stores."""

    def __init__(self, failures: list[BaseException | None]) -> None:
        self.failures, self.stored = failures, list[bytes]()

    async def send(self, topic: str, *, value: bytes, **_: Any) -> asyncio.Future[RecordMetadata]:
        future: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, TimeoutError):
            return future  # never answered
        if failure is not None:
            future.set_exception(failure)
        else:
            self.stored.append(value)
            future.set_result(RecordMetadata(topic, 0, None, len(self.stored) - 1, 0, 0, 0))
        return future

    def create_batch(self) -> FullAfterTen:
        return FullAfterTen()

    async def send_batch(self, batch: FullAfterTen, topic: str, *, partition: int) -> asyncio.Future[RecordMetadata]:
        future = await self.send(topic, value=batch.values[0], partition=partition)
        if future.done() and future.exception() is None:
            self.stored += batch.values[1:]
        return future


def records(count: int) -> list[OutgoingRecord]:
    return [OutgoingRecord("t", b"%d" % n) for n in range(count)]


async def test_failed_sends_are_sent_again_and_results_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "RESEND_BACKOFF_S", (0.0, 0.0))
    producer = FlakyProducer([None, RequestTimedOutError(), None, KafkaConnectionError()])

    written = await Publisher(producer).send_all(records(4))

    assert sorted(producer.stored) == [b"0", b"1", b"2", b"3"]
    assert len(written) == 4


async def test_send_that_is_never_answered_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "RESEND_BACKOFF_S", (0.0,))
    monkeypatch.setattr(publisher, "SEND_TIMEOUT_S", 0.01)

    assert len(await Publisher(FlakyProducer([TimeoutError()])).send_all(records(2))) == 2
    with pytest.raises(UnavailableError, match="not acknowledged"):
        await Publisher(FlakyProducer([TimeoutError()] * 4)).send_all(records(2))


async def test_many_records_of_a_partition_go_in_batches_and_keep_their_offsets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher, "RESEND_BACKOFF_S", (0.0,))
    producer = FlakyProducer([None, RequestTimedOutError(), None])
    many = [OutgoingRecord("t", b"%d" % n, partition=0) for n in range(25)]

    written = await Publisher(producer).send_all(many)

    assert [producer.stored[metadata.offset] for metadata in written] == [r.value for r in many]
    assert len(producer.stored) == 25


async def test_record_in_a_batch_that_is_too_large_is_refused_before_it_is_sent() -> None:
    producer = FlakyProducer([])
    many = [OutgoingRecord("t", b"x" * (RECORD_BYTES_MAX if n == 3 else 1), partition=0) for n in range(20)]

    with pytest.raises(MessageSizeTooLargeError):
        await Publisher(producer).send_all(many)


async def test_record_that_is_too_large_is_not_sent_again() -> None:
    with pytest.raises(MessageSizeTooLargeError):
        await Publisher(FlakyProducer([MessageSizeTooLargeError()])).send(records(1)[0])


class StuckClient:
    """Neither starts nor stops."""

    async def start(self) -> None:
        await asyncio.sleep(3600)

    stop = start


async def test_start_and_stop_have_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "STOP_TIMEOUT_S", 0.01)
    settings = KafkaSettings(request_timeout_s=0.01)

    with pytest.raises(UnavailableError, match="no Kafka broker answers"):
        await kafka.start_client(StuckClient(), settings)
    await kafka.stop_client(StuckClient())


def test_topic_settings_are_given_at_creation() -> None:
    """Altering one setting later would put the others back to the broker's defaults."""
    topics = Topics(SETTINGS)
    for topic in topics.all_for(("m",)):
        assert {"max.message.bytes", "cleanup.policy"} <= set(topic.config())
    assert "alter_configs" not in calls_in_source()
