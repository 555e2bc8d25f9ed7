"""How does the API write to the log and read its own write? SHELL."""

from services.ingest.view_feed import ViewFeed
from shared.messages import Facet, StoredFile, encode
from shared.publisher import OutgoingRecord, Publisher
from shared.topics import Topics, facet_key, partition_of


class LogWriter:
    """Writes facets and files; each call returns once the record is durable and the view covers it."""

    def __init__(self, topics: Topics, publisher: Publisher, feed: ViewFeed) -> None:
        self._topics = topics
        self._publisher = publisher
        self._feed = feed

    async def write_facet(self, batch_id: str, name: str, facet: Facet) -> None:
        """Publish one facet of a batch; raises UnavailableError."""
        topic = self._topics.batches
        partition, key = partition_of(batch_id, topic.partitions), facet_key(batch_id, name)
        await self._write(OutgoingRecord(topic.name, encode(facet), partition, key))

    async def write_file(self, file: StoredFile) -> None:
        """Publish a file's object; raises UnavailableError."""
        await self._write(OutgoingRecord(self._topics.files.name, encode(file), 0, file.id.encode()))

    async def forget_file(self, file_id: str) -> None:
        """Publish a file's tombstone; raises UnavailableError."""
        await self._write(OutgoingRecord(self._topics.files.name, None, 0, file_id.encode()))

    async def _write(self, record: OutgoingRecord) -> None:
        await self._feed.wait_for(await self._publisher.send(record))
