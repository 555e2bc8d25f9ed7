"""Entry point of a collector: opens the store and the log, and collects its share of the partitions."""

import asyncio
import sys

import structlog
from aiokafka import TopicPartition

from services.collector.auditor import Auditor
from services.collector.closing import Closing
from services.collector.collector import PartitionCollector
from services.collector.finalizer import Finalizer
from services.collector.open_batches import OpenBatches
from services.collector.segment_chain import SegmentChain
from services.collector.settings import CollectorSettings
from shared.claim_store import ClaimStore
from shared.dependencies import Dependencies
from shared.group_offsets import GroupOffsets
from shared.health import serve_health
from shared.kafka import make_producer, start_client, stop_client
from shared.lifecycle import Deadline, Stop, run_service, settle_heap, stop_on_signals
from shared.log_reader import LogReader
from shared.logs import set_up_logging
from shared.object_store import ObjectStore
from shared.open_store import open_store
from shared.publisher import Publisher
from shared.settings import load_settings
from shared.telemetry import Telemetry
from shared.topic_setup import prepare_topics
from shared.topics import Topics
from shared.traced_store import TracedStore

log = structlog.get_logger(__name__)


class CollectorProcess:
    """All partitions of one collector."""

    def __init__(self, settings: CollectorSettings) -> None:
        self._settings = settings
        self._topics = Topics(settings.kafka)
        self._stop = Stop()
        self._collectors: list[PartitionCollector] = []
        self._dependencies: Dependencies | None = None

    async def run(self) -> int:
        """Collect until asked to stop; the exit code."""
        stop_on_signals(self._stop)
        kafka = self._settings.kafka
        async with serve_health(self._settings.health, self._needs):
            telemetry = Telemetry("collector", self._settings.telemetry, serve_metrics=True)
            opened = await open_store(self._settings.store)
            store: ObjectStore = TracedStore(opened, telemetry.tracer, self._settings.store.url)
            log_id = await prepare_topics(kafka, self._topics.all_for(self._settings.models))
            producer = make_producer(kafka)
            await start_client(producer, kafka)
            batches_reader, group_offsets = LogReader(kafka), GroupOffsets(kafka)
            try:
                publisher = Publisher(producer, telemetry)
                self._dependencies = Dependencies({"broker": publisher.ask_broker, "store": store.ask}, telemetry)
                open_batches = OpenBatches(self._topics)
                await open_batches.load(batches_reader)
                self._collectors = self._make_collectors(
                    store, log_id, publisher, open_batches, group_offsets, telemetry
                )
                settle_heap()
                await self._collect(open_batches, batches_reader, self._dependencies)
            finally:
                await batches_reader.close()
                await group_offsets.close()
                await stop_client(producer)
                await store.close()
                telemetry.close()
        return 0

    async def _collect(self, open_batches: OpenBatches, batches_reader: LogReader, dependencies: Dependencies) -> None:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(dependencies.watch(), name="dependencies")
            follow = group.create_task(open_batches.follow(batches_reader), name="batches")
            tasks = [group.create_task(collector.run(self._stop)) for collector in self._collectors]
            await self._stop.wait()
            deadline = Deadline(self._settings.drain_timeout_s)
            _, late = await asyncio.wait(tasks, timeout=deadline.remaining_s())
            for task in late:  # what they had in hand is in the log, and is collected again
                task.cancel()
            follow.cancel()
            watch.cancel()

    def _make_collectors(
        self,
        store: ObjectStore,
        log_id: str,
        publisher: Publisher,
        open_batches: OpenBatches,
        group_offsets: GroupOffsets,
        telemetry: Telemetry,
    ) -> list[PartitionCollector]:
        settings, topic = self._settings.collector, self._topics.completions
        finalizer = Finalizer(
            store, settings.scratch_dir, settings.result_expires_after_s, telemetry, settings.finalize_concurrency
        )

        async def opened() -> ObjectStore:
            return store

        claims = ClaimStore(opened, self._settings.store.inline_bytes_max)
        closing = Closing(finalizer=finalizer, publisher=publisher, topics=self._topics, told=open_batches.closed)
        return [
            PartitionCollector(
                partition=number,
                topics=self._topics,
                settings=settings,
                chain=SegmentChain(store, log_id, topic.name, number),
                claims=claims,
                new_reader=lambda: LogReader(self._settings.kafka, self._topics.collector_group),
                publisher=publisher,
                closing=closing,
                auditor=Auditor(
                    tp=TopicPartition(topic.name, number),
                    topics=self._topics,
                    open_batches=open_batches,
                    group_offsets=group_offsets,
                    publisher=publisher,
                    store=store,
                    claims=claims,
                    telemetry=telemetry,
                ),
                telemetry=telemetry,
            )
            for number in range(settings.index, topic.partitions, settings.count)
        ]

    def _needs(self) -> dict[str, str | None]:
        if self._dependencies is None:
            return {"collector": "starting"}
        is_idle = self._settings.collector.index >= self._topics.completions.partitions
        state = "stopping" if self._stop.requested else None if self._collectors or is_idle else "starting"
        partitions = {f"partition {n}": None if c.ready else "recovering" for n, c in enumerate(self._collectors)}
        return {**self._dependencies.states(), "collector": state, **partitions}


async def run() -> int:
    """Read the settings and collect."""
    settings = load_settings(CollectorSettings)
    set_up_logging(settings.telemetry, "collector")
    return await CollectorProcess(settings).run()


def main() -> int:
    """Process entry."""
    return run_service(run)


if __name__ == "__main__":
    sys.exit(main())
