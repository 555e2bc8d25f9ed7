"""How does a batch whose lines come one by one begin and end? SHELL: steps that may be repeated, by anybody.

Whoever wants it to end, its producer, a cancel or the deadline, seals its chain of lines first. From there on it is
like any other batch: its lines are a file, and their number is known.
"""

import time

import msgspec
import structlog

from services.ingest.batch_run import dispatch_record
from services.ingest.file_keeper import BATCH_PURPOSE, FileKeeper
from services.ingest.line_stream import LineStream
from services.ingest.read_model import ReadModel
from services.ingest.shard_records import shard_records
from services.ingest.validation import decide_once
from services.ingest.view_feed import ViewFeed
from shared.batch_state import BatchView
from shared.logs import of_batch
from shared.messages import BatchCreated, BatchDispatched
from shared.object_store import ObjectStore, file_key
from shared.publisher import Publisher
from shared.topics import Topics

log = structlog.get_logger(__name__)


class Sealing:
    """Begins and seals batches that grow."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        topics: Topics,
        publisher: Publisher,
        view: ReadModel,
        feed: ViewFeed,
        keeper: FileKeeper,
    ) -> None:
        self._store = store
        self._topics = topics
        self._publisher = publisher
        self._view = view
        self._feed = feed
        self._keeper = keeper

    async def begin(self, view: BatchView) -> None:
        """Say that the batch is in progress; raises UnavailableError."""
        created = view.created
        in_progress_at = max(int(time.time()), created.created_at)
        await self._tell(created.id, BatchDispatched(in_progress_at=in_progress_at, growing=True))

    async def seal(self, view: BatchView, cursor: BatchDispatched) -> None:
        """Let nothing more come, and tell the collectors how many lines there are; raises UnavailableError.

        `cursor` says what was dispatched so far.
        """
        created = view.created
        chain = LineStream(self._store, created.id)
        end = await chain.seal()
        await self._make_file(created, chain, end.num_bytes)
        sealed = msgspec.structs.replace(cursor, growing=False, total=end.num_lines)
        unread = msgspec.structs.replace(
            sealed, next_line=0, next_byte=0, ahead=b"", highest_offsets={}, answered_key=None
        )
        await decide_once(self._store, created.id, unread)
        await chain.remove()
        room = created.record_total(0)
        await self._publisher.send_all(shard_records(self._topics, created, "sealed", room, end.num_lines))
        await self._tell(created.id, sealed)
        log.info("batch sealed", **of_batch(created), total=end.num_lines)

    async def _make_file(self, created: BatchCreated, chain: LineStream, num_bytes: int) -> None:
        """Make the lines the batch's input file, which its user may have deleted by now."""
        file_id = created.input_file_id
        if self._view.file(file_id) is not None:
            return
        if await self._store.size(file_key(file_id)) is None:
            await chain.put_together(file_key(file_id))
        file = self._keeper.describe(
            file_id,
            tenant=created.tenant,
            purpose=BATCH_PURPOSE,
            filename=f"{created.id}_input.jsonl",
            num_bytes=num_bytes,
            expires_after_s=None,
        )
        await self._keeper.add(file)

    async def _tell(self, batch_id: str, facet: BatchDispatched) -> None:
        written = await self._publisher.send(dispatch_record(self._topics.batches, batch_id, facet))
        await self._feed.wait_for(written)
