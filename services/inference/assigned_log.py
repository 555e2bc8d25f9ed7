"""Which records are this worker's, and where are offsets committed? SHELL: the group consumer and listener.

The only caller of `commit`. Nothing is committed between `revoked` and `assigned`: a commit refused there
costs the member its id and starts another rebalance. A new epoch begins with what the group has committed, offset
and note, which are read after the poll that brought the epoch's first records.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.structs import OffsetAndMetadata

from services.inference.offset_tracker import OffsetTracker
from shared.errors import HeadraceError, UnavailableError
from shared.group_offsets import GroupOffsets
from shared.kafka import KAFKA_ERRORS, consumer_options, start_client, stop_client, work_options
from shared.log_reader import Record
from shared.partition_note import PartitionNote, decode_note, encode_note
from shared.settings import KafkaSettings
from shared.topics import BATCH

log = structlog.get_logger(__name__)

REVOKE_COMMIT_TIMEOUT_S = 5.0
REOPEN_BACKOFF_S = 1.0
# Offsets between the first unfinished record and the last one taken; beyond it the partition waits.
SPAN_MAX = 20_000
# Two live members with one static id knock each other out for ever and neither notices; this does.
REBALANCES_MAX, REBALANCES_WINDOW_S = 20, 60.0


class EndlessRebalance(HeadraceError):
    """The group rebalances without end; probably two members carry the same static id."""


def make_group_consumer(
    settings: KafkaSettings, group: str, instance_id: str | None, request_class: str = BATCH
) -> AIOKafkaConsumer:
    """The consumer of a worker's group; of interactive lines none wait in the client, so their fetches may be held."""
    options = work_options(settings) if request_class == BATCH else consumer_options(settings)
    return AIOKafkaConsumer(
        **options,
        group_id=group,
        group_instance_id=instance_id,
        auto_offset_reset="earliest",
        partition_assignment_strategy=(StickyPartitionAssignor,),
    )


class AssignedLog(ConsumerRebalanceListener):  # type: ignore[misc]
    """The partitions that the group gave to this worker."""

    def __init__(
        self,
        *,
        settings: KafkaSettings,
        topic: str,
        new_consumer: Callable[[], AIOKafkaConsumer],
        group_offsets: GroupOffsets,
        num_held_max: int,
    ) -> None:
        self._settings = settings
        self.topic = topic
        self._new_consumer = new_consumer
        self._group_offsets = group_offsets
        self._num_held_max = num_held_max
        self._consumer: AIOKafkaConsumer | None = None
        self._trackers: dict[TopicPartition, OffsetTracker] = {}
        self._written: dict[TopicPartition, tuple[int, PartitionNote]] = {}
        # What this process wrote last, whichever epoch that was in.
        self._own_words: dict[TopicPartition, tuple[int, str]] = {}
        self._trial: dict[TopicPartition, list[int]] = {}
        self._known_holes: set[tuple[TopicPartition, int]] = set()
        self._epoch = 0
        self._stable = False
        self._rebalances: deque[float] = deque(maxlen=REBALANCES_MAX)
        self.joined = False

    async def _open(self) -> None:
        consumer = self._new_consumer()
        consumer.subscribe([self.topic], listener=self)
        await start_client(consumer, self._settings)
        self._consumer = consumer

    async def close(self, *, is_clean: bool) -> None:
        """Commit what is finished and leave. `is_clean` lets go of the partitions: no record is to blame."""
        if self._consumer is None:
            return
        await self.commit(held=not is_clean)
        consumer, self._consumer = self._consumer, None
        await stop_client(consumer)

    @property
    def partitions(self) -> tuple[int, ...]:
        """Partitions that are this worker's now."""
        assigned = self._consumer.assignment() if self._consumer is not None and self._stable else ()
        return tuple(sorted(tp.partition for tp in assigned))

    @property
    def num_uncommitted(self) -> int:
        """Records from the first unfinished one to the last that was taken, all partitions together."""
        return sum(tracker.span for tracker in list(self._trackers.values()))

    @property
    def is_suspicious(self) -> bool:
        """Whether records that may have killed an owner are not finished: note what starts before it starts."""
        return any(tracker.is_suspicious for tracker in self._trackers.values())

    @property
    def num_suspects(self) -> int:
        """Records that must run apart from everything else."""
        return sum(tracker.num_suspects for tracker in self._trackers.values())

    async def poll(self, *, timeout_ms: int, max_records: int, only_suspects: bool = False) -> list[Record]:
        """Records that are new work. Any error of the client means that its positions are wrong: join anew."""
        try:
            if self._consumer is None:
                await self._open()
            assert self._consumer is not None
            partitions = self._partitions_to_poll(only_suspects)
            if partitions is not None and not partitions:
                await asyncio.sleep(timeout_ms / 1000)
                return []
            polled = await self._consumer.getmany(*(partitions or ()), timeout_ms=timeout_ms, max_records=max_records)
            # After the poll: a rebalance may finish inside it, and the records are then of the new epoch.
            epoch = self._epoch
            self._refuse_endless_rebalances()
            if any(self._tracker(tp).epoch != epoch for tp in polled):
                await self._take_over(epoch)
            return [record for tp, records in polled.items() for record in self._new_work(tp, records, epoch)]
        except (UnavailableError, *KAFKA_ERRORS) as error:
            log.warning("poll failed, joining the group anew", error=repr(error))
            await self._leave_behind()
            return []

    def finish(self, tp: TopicPartition, offset: int) -> None:
        """The completion of a record is acknowledged. A partition that was lost meanwhile is normal."""
        tracker = self._trackers.get(tp)
        if tracker is not None:
            tracker.finish(offset)

    def is_condemned(self, tp: TopicPartition, offset: int) -> bool:
        """Whether this record killed its process each time it ran alone."""
        return self._tracker(tp).is_condemned(offset)

    def was_with_a_dead_worker(self, tp: TopicPartition, offset: int) -> bool:
        """Whether an owner that died may have had this record, as far as its note says."""
        return self._tracker(tp).may_have_run(offset)

    def acquit(self) -> None:
        """Drop all suspicion: the suspects did not come."""
        for tracker in self._trackers.values():
            tracker.acquit()

    async def begin_trial(self, records: Sequence[Record]) -> None:
        """Note that these records run now and nothing else does; returns when the note is durable, or refused."""
        self._trial = {}
        for record in records:
            self._trial.setdefault(TopicPartition(record.topic, record.partition), []).append(record.offset)
        await self.commit()

    async def end_trial(self) -> None:
        """Note that the group of suspects is finished."""
        self._trial = {}
        await self.commit()

    async def commit(self, *, held: bool = True) -> None:
        """Commit the first unfinished offset of each partition, with its note, where either has changed."""
        if not self._stable or self._consumer is None:
            return
        wanted = {tp: value for tp, value in self._to_write(held).items() if self._written.get(tp) != value}
        if not wanted:
            return
        try:
            words = {tp: (offset, encode_note(note)) for tp, (offset, note) in wanted.items()}
            await self._consumer.commit(words)
        except KAFKA_ERRORS as error:
            log.info("commit refused, the records will be delivered again", error=repr(error))
            return
        self._written.update(wanted)
        self._own_words.update(words)

    async def on_partitions_revoked(self, _revoked: Collection[TopicPartition]) -> None:
        """Last commit of the epoch, inside a limit."""
        self._epoch += 1
        try:
            async with asyncio.timeout(REVOKE_COMMIT_TIMEOUT_S):
                await self.commit(held=False)
        except TimeoutError:
            log.info("commit before a rebalance took too long", topic=self.topic)
        self._stable = False

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Keep the trackers of partitions that came back, drop the others."""
        self._stable = True
        self.joined = True
        self._rebalances.append(time.monotonic())
        for tp in set(self._trackers) - set(assigned):
            del self._trackers[tp]
        self._written.clear()
        log.info("partitions assigned", topic=self.topic, partitions=sorted(tp.partition for tp in assigned))

    def _tracker(self, tp: TopicPartition) -> OffsetTracker:
        tracker = self._trackers.get(tp)
        if tracker is None:
            tracker = self._trackers[tp] = OffsetTracker()
        return tracker

    def _partitions_to_poll(self, only_suspects: bool) -> list[TopicPartition] | None:
        """None = all; the client then need not look each one up."""
        if only_suspects:
            return [tp for tp, tracker in self._trackers.items() if tracker.num_suspects]
        full = {tp for tp, tracker in self._trackers.items() if tracker.span > SPAN_MAX}
        if not full or self._consumer is None:
            return None
        return [tp for tp in self._consumer.assignment() if tp not in full]

    def _new_work(self, tp: TopicPartition, records: list[Record], epoch: int) -> list[Record]:
        tracker = self._tracker(tp)
        if tracker.epoch != epoch or self._has_gap(tp, tracker, records[0].offset):
            return []  # they come again: another assignment began meanwhile, or the position was set back
        return [record for record in records if tracker.deliver(record.offset)]

    def _has_gap(self, tp: TopicPartition, tracker: OffsetTracker, offset: int) -> bool:
        """Whether records between the group's offset and the epoch's first record may have been passed over.

        Offsets can have holes, so the position is set back once, and only a gap that comes again is a hole (rule 3).
        """
        expected, is_read_again = tracker.first_expected, tracker.is_read_again
        tracker.first_expected, tracker.is_read_again = None, False
        if expected is None or offset <= expected or (tp, expected) in self._known_holes:
            return False
        if is_read_again:
            self._known_holes.add((tp, expected))
            return False
        assert self._consumer is not None
        if tp in self._consumer.assignment():  # or whoever has it now reads it
            log.warning("gap at the start of an epoch, reading again", partition=tp.partition, offset=offset)
            tracker.first_expected, tracker.is_read_again = expected, True
            self._consumer.seek(tp, expected)
        return True

    async def _take_over(self, epoch: int) -> None:
        """Begin the epoch: read what the group has committed, and write that the partitions are held."""
        assert self._consumer is not None
        assigned = set(self._consumer.assignment())
        committed = await self._group_offsets.committed(self.topic, assigned)
        fresh = [tp for tp in assigned if tp not in committed]
        begins = await self._consumer.beginning_offsets(fresh) if fresh else {}
        if epoch != self._epoch:
            return
        for tp in assigned & set(self._consumer.assignment()):  # a partition may have gone before it was said
            offset = committed[tp].offset if tp in committed else begins[tp]
            note = self._note_of(tp, committed[tp]) if tp in committed else None
            self._tracker(tp).take_over(offset, note, epoch, self._num_held_max)
        await self.commit()
        if self.num_suspects:
            log.warning("records that may have killed a worker run apart", num_suspects=self.num_suspects)

    def _note_of(self, tp: TopicPartition, committed: OffsetAndMetadata) -> PartitionNote | None:
        """What the owner before left. One that is this process, which lost the partition for a while, did not die."""
        note = decode_note(committed.metadata)
        if note is not None and self._own_words.get(tp) == (committed.offset, committed.metadata):
            return msgspec.structs.replace(note, held=False)
        return note

    def _to_write(self, held: bool) -> Mapping[TopicPartition, tuple[int, PartitionNote]]:
        assert self._consumer is not None
        assigned = self._consumer.assignment()
        is_alone = sum(map(len, self._trial.values())) == 1
        return {
            tp: (
                tracker.committable_offset,
                tracker.note(held=held, trial=self._trial.get(tp, ()), is_alone=is_alone),
            )
            for tp, tracker in self._trackers.items()
            if tracker.epoch is not None and tp in assigned
        }

    async def _leave_behind(self) -> None:
        """Throw the consumer away; the next one starts where the group has committed."""
        consumer, self._consumer, self._stable = self._consumer, None, False
        self._epoch += 1
        if consumer is not None:
            await stop_client(consumer)
        await asyncio.sleep(REOPEN_BACKOFF_S)

    def _refuse_endless_rebalances(self) -> None:
        full = len(self._rebalances) == REBALANCES_MAX
        if full and self._rebalances[-1] - self._rebalances[0] < REBALANCES_WINDOW_S:
            raise EndlessRebalance(
                f"{REBALANCES_MAX} rebalances of {self.topic} in {REBALANCES_WINDOW_S:.0f} s: "
                "is another worker running with the same HEADRACE_INFERENCE__WORKER_ID?"
            )
