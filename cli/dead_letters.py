"""`headrace dlq`: what was parked, why, and how it is sent again. SHELL.

A record that is sent again goes where it was parked, with its own bytes, key and headers: what it stands for keeps its
identity, and whoever saw it before knows it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from aiokafka import TopicPartition

from shared.dead_letters import own_headers
from shared.errors import SetupError
from shared.kafka import make_producer, start_client, stop_client
from shared.log_reader import LogReader, Record
from shared.publisher import OutgoingRecord, Publisher
from shared.settings import KafkaSettings, ServiceSettings, load_settings
from shared.topics import Topics

POLL_TIMEOUT_MS, POLL_RECORDS = 1_000, 500
SHOWN_BYTES = 80


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A parked record; `number` is its offset on the dead-letter topic, the others say where it was parked."""

    number: int
    parked_at_ms: int
    topic: str
    partition: int
    offset: int
    error: str
    reason: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    is_truncated: bool

    def summary(self) -> dict[str, object]:
        """A line of a list."""
        start = (self.value or b"")[:SHOWN_BYTES].decode(errors="replace")
        return {
            "number": self.number,
            "parked_at_ms": self.parked_at_ms,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "error": self.error,
            "reason": self.reason,
            "value": start,
        }

    def details(self) -> dict[str, object]:
        """All of it."""
        key = self.key.decode(errors="replace") if self.key is not None else None
        value = self.value.decode(errors="replace") if self.value is not None else None
        headers = {name: (content or b"").decode(errors="replace") for name, content in self.headers}
        return self.summary() | {"key": key, "value": value, "headers": headers, "truncated": self.is_truncated}


def list_letters(kafka: str, *, limit: int, error: str = "", topic: str = "") -> list[DeadLetter]:
    """The newest letters, oldest first; of one class of errors or one topic if these are named."""
    return asyncio.run(_list(kafka, limit, error, topic))


def show(kafka: str, number: int) -> DeadLetter:
    """One letter; raises SetupError."""
    return asyncio.run(_find(kafka, [number]))[0]


def redrive(kafka: str, numbers: Sequence[int]) -> list[DeadLetter]:
    """Send these records again, to where they were parked; raises SetupError before anything is sent."""
    return asyncio.run(_redrive(kafka, numbers))


def parse_letter(record: Record) -> DeadLetter:
    """A record of the dead-letter topic."""
    about = {name: content or b"" for name, content in record.headers or ()}
    return DeadLetter(
        number=record.offset,
        parked_at_ms=record.timestamp,
        topic=about.get("dlq.topic", b"").decode(errors="replace"),
        partition=int(about.get("dlq.partition", b"0")),
        offset=int(about.get("dlq.offset", b"0")),
        error=about.get("dlq.error", b"").decode(errors="replace"),
        reason=about.get("dlq.reason", b"").decode(errors="replace"),
        key=record.key,
        value=None if "dlq.tombstone" in about else record.value,
        headers=tuple(own_headers(record.headers or ())),
        is_truncated="dlq.truncated" in about or "dlq.headers_dropped" in about,
    )


def _settings(kafka: str) -> KafkaSettings:
    return load_settings(ServiceSettings).kafka.model_copy(update={"bootstrap": kafka})


async def _all(kafka: KafkaSettings) -> AsyncGenerator[DeadLetter]:
    """Every letter that is there now, oldest first."""
    tp, reader = TopicPartition(Topics(kafka).dlq.name, 0), LogReader(kafka)
    await reader.open({tp: None})
    try:
        end = (await reader.end_offsets())[tp]
        while reader.positions[tp] < end:
            for record in await reader.poll(timeout_ms=POLL_TIMEOUT_MS, max_records=POLL_RECORDS):
                yield parse_letter(record)
    finally:
        await reader.close()


async def _list(kafka: str, limit: int, error: str, topic: str) -> list[DeadLetter]:
    found: deque[DeadLetter] = deque(maxlen=limit)
    async with contextlib.aclosing(_all(_settings(kafka))) as letters:
        async for letter in letters:
            if (not error or letter.error == error) and (not topic or letter.topic == topic):
                found.append(letter)
    return list(found)


async def _find(kafka: str, numbers: Sequence[int]) -> list[DeadLetter]:
    wanted, found = set(numbers), dict[int, DeadLetter]()
    async with contextlib.aclosing(_all(_settings(kafka))) as letters:
        async for letter in letters:
            if letter.number in wanted:
                found[letter.number] = letter
    if missing := sorted(wanted - set(found)):
        raise SetupError(f"there is no dead letter {missing[0]}: 'headrace dlq list' shows them")
    return [found[number] for number in numbers]


async def _redrive(kafka: str, numbers: Sequence[int]) -> list[DeadLetter]:
    letters = await _find(kafka, numbers)
    if cut := [letter for letter in letters if letter.is_truncated]:
        raise SetupError(f"dead letter {cut[0].number} was too large to be kept whole: send it from where it came")
    if empty := [letter for letter in letters if letter.value is None and letter.key is None]:
        raise SetupError(f"dead letter {empty[0].number} had neither key nor value: there is nothing to send")
    settings = _settings(kafka)
    producer = make_producer(settings)
    await start_client(producer, settings)
    try:
        await Publisher(producer).send_all(
            [OutgoingRecord(each.topic, each.value, each.partition, each.key, each.headers) for each in letters]
        )
    finally:
        await stop_client(producer)
    return letters
