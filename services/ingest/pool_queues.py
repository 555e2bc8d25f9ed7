"""How long are the queues in front of the workers now? SHELL: asks the broker, at most a few times a second.

A queue is what lies between the end of a request partition and what its group has finished: the committed offset, and
those above it that the worker's note names. No measurement is no reason to stop: lines are placed then as if there
were room.
"""

import time
from collections.abc import Callable, Collection, Iterable

import structlog
from aiokafka import TopicPartition

from services.ingest.placement import Queues, WorkerQueue
from services.ingest.read_model import ReadModel
from shared.errors import UnavailableError
from shared.group_offsets import GroupOffsets
from shared.log_ends import LogEnds
from shared.partition_note import decode_note, num_finished
from shared.topics import Topics

log = structlog.get_logger(__name__)

MEASURE_INTERVAL_S = 0.25
STALE_S = 5.0


class PoolQueues:
    """The queues of all pools that this process dispatches to, by model."""

    def __init__(
        self,
        *,
        topics: Topics,
        view: ReadModel,
        group_offsets: GroupOffsets,
        new_ends: Callable[[Collection[TopicPartition]], LogEnds],
        worker_silence_s: float,
    ) -> None:
        self._topics = topics
        self._view = view
        self._group_offsets = group_offsets
        self._new_ends = new_ends
        self._silence_s = worker_silence_s
        self._queues: dict[str, Queues] = {}
        self._ends: dict[str, LogEnds] = {}
        self._asked_at: dict[str, float] = {}
        self._measured_at: dict[str, float] = {}

    def of(self, model: str) -> Queues:
        """The queues of a model's pool."""
        queues = self._queues.get(model)
        if queues is None:
            queues = self._queues[model] = Queues(self._topics.requests(model).partitions)
        return queues

    def is_bounded(self, model: str) -> bool:
        """Whether the queues were measured lately, and lines have to wait for room."""
        return time.monotonic() - self._measured_at.get(model, -STALE_S) < STALE_S

    async def refresh(self, models: Iterable[str]) -> None:
        """Measure the queues of these models that were not looked at for a moment."""
        for model in models:
            now_s = time.monotonic()
            if now_s - self._asked_at.get(model, -MEASURE_INTERVAL_S) < MEASURE_INTERVAL_S:
                continue
            self._asked_at[model] = now_s
            try:
                await self._measure(model)
            except UnavailableError as error:
                log.info("queues not measured", model=model, reason=str(error))

    async def close(self) -> None:
        """Let go of the connections."""
        for ends in self._ends.values():
            await ends.close()
        await self._group_offsets.close()

    async def _measure(self, model: str) -> None:
        topic = self._topics.requests(model)
        partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        if model not in self._ends:
            ends = self._new_ends(partitions)
            await ends.open()
            self._ends[model] = ends
        found = await self._ends[model].now()
        committed = await self._group_offsets.committed(topic.name, partitions)
        begins = await self._ends[model].begin() if len(committed) < len(partitions) else {}
        finished = {
            tp.partition: committed[tp].offset + num_finished(decode_note(committed[tp].metadata))
            if tp in committed
            else begins[tp]
            for tp in partitions
        }
        beats = self._view.workers_alive(model, int(time.time() * 1000), self._silence_s)
        workers = [WorkerQueue(beat.window, tuple(sorted(beat.partitions))) for beat in beats]
        now_s = time.monotonic()
        self.of(model).measured({tp.partition: found[tp] for tp in partitions}, finished, now_s, workers)
        self._measured_at[model] = now_s
