"""How far are the consumer groups of an installation behind? SHELL: asked of the broker, so that it is known as well
while nobody consumes.

Behind is what lies between a partition's end and what its group has finished: the committed offset, and those above it
that a worker's note names.
"""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
import structlog
from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from shared.errors import UnavailableError
from shared.group_offsets import GroupOffsets
from shared.kafka import KAFKA_ERRORS
from shared.log_ends import Ends, LogEnds
from shared.metric_names import GROUP_LAG
from shared.partition_note import decode_note, num_finished
from shared.settings import KafkaSettings
from shared.telemetry import Telemetry
from shared.topics import Topic, Topics

log = structlog.get_logger(__name__)

MEASURE_INTERVAL_S = 15.0


class TopicLag(msgspec.Struct, frozen=True):
    """A topic, the records that it has, and how many of them its group, if it has one, has not finished."""

    topic: Topic
    num_records: int
    group: str | None
    lag: int | None


class GroupLag:
    """Measures the topics of an installation that serves these models."""

    def __init__(self, kafka: KafkaSettings, models: tuple[str, ...]) -> None:
        self._topics = Topics(kafka)
        self._layout = self._topics.all_for(models)
        self._ends = LogEnds(kafka, [tp for topic in self._layout for tp in _partitions(topic)])
        self._groups = GroupOffsets(kafka)
        self._is_open = False
        self._known: Sequence[TopicLag] = ()

    async def measure(self) -> list[TopicLag]:
        """Every topic now; raises UnavailableError."""
        if not self._is_open:
            await self._ends.open()
            self._is_open = True
        begins, ends = await self._ends.begin(), await self._ends.now()
        return [await self._of(topic, begins, ends) for topic in self._layout]

    async def watch(self, telemetry: Telemetry) -> None:
        """Keep a gauge of it up to date until cancelled; it shows nothing while the broker does not answer."""
        telemetry.gauge(
            GROUP_LAG, lambda: {(k.group, k.topic.name): k.lag for k in self._known if k.group and k.lag is not None}
        )
        while True:
            try:
                self._known = await self.measure()
            except (UnavailableError, *KAFKA_ERRORS) as error:
                self._known = ()
                log.info("lag is measured later", reason=str(error))
            await asyncio.sleep(MEASURE_INTERVAL_S)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._ends.close()
        await self._groups.close()

    async def _of(self, topic: Topic, begins: Ends, ends: Ends) -> TopicLag:
        partitions, group = _partitions(topic), self._topics.group_of(topic)
        num_records = sum(ends[tp] - begins[tp] for tp in partitions)
        if group is None:
            return TopicLag(topic, num_records, None, None)
        committed = await self._groups.committed(group, partitions)
        return TopicLag(topic, num_records, group, sum(behind(tp, begins, ends, committed) for tp in partitions))


def behind(tp: TopicPartition, begins: Ends, ends: Ends, committed: Mapping[TopicPartition, OffsetAndMetadata]) -> int:
    """Records of a partition that its group has not finished; all that are there if it has committed none."""
    if tp not in committed:
        return ends[tp] - begins[tp]
    offset: int = committed[tp].offset
    return max(0, ends[tp] - max(begins[tp], offset) - num_finished(decode_note(committed[tp].metadata)))


def _partitions(topic: Topic) -> list[TopicPartition]:
    return [TopicPartition(topic.name, number) for number in range(topic.partitions)]
