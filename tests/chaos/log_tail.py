"""What is in the log at the end of a run, read with a foreign client."""

import json
import time
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition

from tests.chaos.verifier import LogRecord

READ_TIMEOUT_S = 60.0


def read_topic(bootstrap: str, topic: str, partitions: int) -> list[Message]:
    """Every record of a topic, partition by partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "verifier", "enable.auto.commit": False})
    found: list[Message] = []
    try:
        for number in range(partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=20)
            consumer.assign([TopicPartition(topic, number, low)])
            deadline, position = time.monotonic() + READ_TIMEOUT_S, low
            while position < high:
                for message in consumer.consume(5_000, timeout=0.1):
                    assert message.error() is None, message.error()
                    found.append(message)
                    position = (message.offset() or 0) + 1
                assert time.monotonic() < deadline, f"{topic}[{number}] cannot be read to its end"
    finally:
        consumer.close()
    return found


def headers_of(message: Message) -> dict[str, bytes]:
    """A record's headers; the last one of a name counts."""
    pairs: Any = message.headers() or []
    return {key: value or b"" for key, value in pairs}


def completions_of(messages: list[Message]) -> list[LogRecord]:
    """Records of the completions topic that have our headers."""
    found = []
    for message in messages:
        headers = headers_of(message)
        if "kind" in headers:
            place = message.partition() or 0, message.offset() or 0, int(message.timestamp()[1])
            found.append(LogRecord(*place, headers, _bytes(message.value())))
    return found


def facets_of(messages: list[Message]) -> list[tuple[str, int, dict[str, Any]]]:
    """Key (`<batch>/<facet>`), time in ms and value of each record of the batches topic."""
    found = []
    for message in messages:
        key = _bytes(message.key()).decode()
        if message.value() is not None:
            found.append((key, int(message.timestamp()[1]), json.loads(_bytes(message.value()))))
    return found


def _bytes(value: Any) -> bytes:
    return value or b""
