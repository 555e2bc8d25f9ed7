"""How is a topic read as a log, without a group? SHELL: positions are ours, and every poll is checked against them.

The client loses drained records when one partition of a poll raises, so after any error the consumer is
thrown away and a new one starts where the last *returned* record was.
"""

import asyncio
from collections.abc import Mapping
from typing import TypeAlias

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError
from aiokafka.structs import ConsumerRecord

from shared.errors import HeadraceError, UnavailableError
from shared.kafka import KAFKA_ERRORS, make_log_consumer, start_client, stop_client
from shared.settings import KafkaSettings

log = structlog.get_logger(__name__)

REOPEN_BACKOFF_S = 0.5
Record: TypeAlias = ConsumerRecord[bytes | None, bytes | None]


class LogTruncated(HeadraceError):
    """The log no longer holds (or never held) the offset that we have to read next."""


class LogReader:
    """Reads partitions of some topics in order; `positions` are the next offsets to be returned."""

    def __init__(self, settings: KafkaSettings, group: str | None = None) -> None:
        self._settings = settings
        self._group = group
        self._consumer: AIOKafkaConsumer | None = None
        self.positions: dict[TopicPartition, int] = {}

    async def open(self, positions: Mapping[TopicPartition, int | None]) -> None:
        """Start reading at the given offsets; None = where the log begins. Raises UnavailableError."""
        consumer = make_log_consumer(self._settings, self._group)
        await start_client(consumer, self._settings)
        consumer.assign(list(positions))
        self._consumer = consumer
        unknown = [tp for tp, offset in positions.items() if offset is None]
        first = await consumer.beginning_offsets(unknown) if unknown else {}
        self.positions = {tp: first[tp] if offset is None else offset for tp, offset in positions.items()}
        for tp, offset in self.positions.items():
            consumer.seek(tp, offset)

    async def close(self) -> None:
        """Stop; safe to call twice."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop_client(consumer)

    async def poll(self, *, timeout_ms: int, max_records: int) -> list[Record]:
        """Next records, in offset order within a partition; an empty list when nothing came in time.

        Raises LogTruncated when the next offset is not in the log.
        """
        if self._consumer is None:
            await self._reopen()
        assert self._consumer is not None
        try:
            polled = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=max_records)
        except OffsetOutOfRangeError as error:
            raise LogTruncated(f"{error.args[0] if error.args else error}: not in the log") from error
        except KAFKA_ERRORS as error:
            log.warning("poll failed, reopening the log", error=repr(error))
            await self.close()
            await asyncio.sleep(REOPEN_BACKOFF_S)
            return []
        records: list[Record] = []
        for tp, batch in polled.items():
            # Offsets may have holes (compaction, transactions) but never go back.
            assert batch[0].offset >= self.positions[tp], f"{tp}@{batch[0].offset} before {self.positions[tp]}"
            records.extend(batch)
            self.positions[tp] = batch[-1].offset + 1
        return records

    async def end_offsets(self) -> dict[TopicPartition, int]:
        """Where each partition ends now: one past its last record; raises UnavailableError while it is reopened."""
        if self._consumer is None:
            raise UnavailableError("the log is being opened again")
        return dict(await self._consumer.end_offsets(list(self.positions)))

    async def beginning_offsets(self) -> dict[TopicPartition, int]:
        """Where each partition begins now."""
        assert self._consumer is not None
        return dict(await self._consumer.beginning_offsets(list(self.positions)))

    async def commit_gauge(self, offsets: dict[TopicPartition, int]) -> None:
        """Publish a lag gauge as group offsets; nothing is ever read back from it, so failing is harmless."""
        if self._consumer is None or not offsets:
            return
        try:
            await self._consumer.commit(offsets)
        except KAFKA_ERRORS as error:
            log.info("lag gauge not committed", error=repr(error))

    async def _reopen(self) -> None:
        await self.open(dict(self.positions))
