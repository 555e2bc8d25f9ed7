"""What does the worker hold? Lines and bytes that were taken from the log and are not published yet.

Lives on the Kafka thread's loop; all that is not published counts, so that a slow broker bounds what is held.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

from services.inference.job import Job


class InFlight:
    """Counts by topic."""

    def __init__(self) -> None:
        self._num_by_topic: Counter[str] = Counter()
        self._freed = asyncio.Event()
        self.num_bytes = 0

    @property
    def total(self) -> int:
        """Lines of all topics."""
        return self._num_by_topic.total()

    def of(self, topic: str) -> int:
        """Lines of one topic."""
        return self._num_by_topic[topic]

    def add(self, jobs: Sequence[Job]) -> None:
        """These were taken."""
        self._num_by_topic.update(job.tp.topic for job in jobs)
        self.num_bytes += sum(len(job.body) for job in jobs)

    def remove(self, jobs: Sequence[Job]) -> None:
        """These are published, or were let go of."""
        self._num_by_topic.subtract(job.tp.topic for job in jobs)
        self.num_bytes -= sum(len(job.body) for job in jobs)
        self._freed.set()

    async def wait(self) -> None:
        """Until something is removed, or somebody has to look again."""
        self._freed.clear()
        await self._freed.wait()

    def wake(self) -> None:
        """Let everybody look again."""
        self._freed.set()
