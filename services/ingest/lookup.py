"""What is behind an id, now? SHELL: the view, the view once it has caught up with the log, then the store.

Instances of the API follow the log each at its own pace. What is still to change is answered only by a view that covers
the log as it was when the call came, so counts never go down from one instance to the next; what has ended cannot
change, and is answered at once. What belongs to another tenant is answered like what does not exist.
"""

import time

from services.ingest.read_model import ReadModel
from services.ingest.stored_batches import stored_batch, stored_file
from services.ingest.view_feed import ViewFeed
from shared.batch_state import BatchView
from shared.messages import StoredFile
from shared.object_store import ObjectStore


class Lookup:
    """Batches and files by tenant and id."""

    def __init__(self, view: ReadModel, feed: ViewFeed, store: ObjectStore) -> None:
        self._view = view
        self._feed = feed
        self._store = store

    async def batch(self, tenant: str, batch_id: str) -> BatchView | None:
        """A batch, or None when the tenant has none of this id; raises UnavailableError."""
        found = self._view.batch(batch_id)
        if found is None or not found.is_terminal:
            await self._feed.catch_up()
            found = self._view.batch(batch_id)
        found = found or await stored_batch(self._store, batch_id)
        return found if found is not None and found.created.tenant == tenant else None

    async def file(self, tenant: str, file_id: str) -> StoredFile | None:
        """A file's object, or None when the tenant has none of this id; raises UnavailableError."""
        found = self._view.file(file_id)
        if found is None:
            await self._feed.catch_up()
            found = self._view.file(file_id)
        found = found or await stored_file(self._store, file_id)
        return found if found is not None and found.is_visible(tenant, time.time()) else None

    async def batches(self, tenant: str, *, after: str | None, limit: int) -> list[BatchView]:
        """Batches as the log has them now, newest first, those after the cursor; raises UnavailableError."""
        await self._feed.catch_up()
        return self._view.list_batches(tenant=tenant, after=after, limit=limit)

    async def files(
        self, tenant: str, *, purpose: str | None, after: str | None, limit: int, descending: bool
    ) -> list[StoredFile]:
        """Files as the log has them now, by creation time, those after the cursor; raises UnavailableError."""
        await self._feed.catch_up()
        return self._view.list_files(
            tenant=tenant, purpose=purpose, after=after, limit=limit, descending=descending, now_s=int(time.time())
        )
