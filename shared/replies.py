"""How are answers sent to topics that are not ours? SHELL: patiently for a moment, then to `results` instead.

Such a topic may be deleted or refuse us at any time; neither is the answer lost then, nor do the others wait for it.
"""

import asyncio
import time
from collections.abc import Sequence

import structlog
from aiokafka.errors import MessageSizeTooLargeError

from shared.errors import UnavailableError
from shared.publisher import OutgoingRecord, Publisher
from shared.result_records import on_results
from shared.topics import Topics

log = structlog.get_logger(__name__)

REPLY_TIMEOUT_S = 5.0
# A topic that did not take an answer is not tried again for so long.
AWAY_S = 60.0


class Replies:
    """Sends answers to reply topics."""

    def __init__(self, topics: Topics, publisher: Publisher) -> None:
        self._topics = topics
        self._publisher = publisher
        self._away_until: dict[str, float] = {}

    async def send_all(self, answers: Sequence[OutgoingRecord]) -> None:
        """Returns when each is acknowledged, where it was asked for or on `results`; raises UnavailableError."""
        by_topic: dict[str, list[OutgoingRecord]] = {}
        for answer in answers:
            by_topic.setdefault(answer.topic, []).append(answer)
        await asyncio.gather(*(self._send(topic, records) for topic, records in by_topic.items()))

    async def _send(self, topic: str, answers: list[OutgoingRecord]) -> None:
        if time.monotonic() >= self._away_until.get(topic, 0.0):
            try:
                async with asyncio.timeout(REPLY_TIMEOUT_S):
                    await self._publisher.send_all(answers)
                return
            except (TimeoutError, UnavailableError, MessageSizeTooLargeError) as error:
                log.warning("reply topic does not take answers, they go to results", topic=topic, reason=repr(error))
                self._away_until[topic] = time.monotonic() + AWAY_S
        await self._publisher.send_all([on_results(self._topics, answer) for answer in answers])
