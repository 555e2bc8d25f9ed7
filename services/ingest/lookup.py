"""What is behind an id, now? SHELL: the view, the view once it has caught up with the log, then the store.

Instances of the API follow the log each at its own pace. What is still to change is answered only by a view that covers
the log as it was when the call came, so counts never go down from one instance to the next; what has ended cannot
change, and is answered at once.
"""

from services.ingest.read_model import ReadModel
from services.ingest.stored_batches import stored_batch, stored_file
from services.ingest.view_feed import ViewFeed
from shared.batch_state import BatchView
from shared.messages import StoredFile
from shared.object_store import ObjectStore


async def current_batch(view: ReadModel, feed: ViewFeed, store: ObjectStore, batch_id: str) -> BatchView | None:
    """A batch, or None when there is none anywhere; raises UnavailableError."""
    found = view.batch(batch_id)
    if found is None or not found.is_terminal:
        await feed.catch_up()
        found = view.batch(batch_id)
    return found or await stored_batch(store, batch_id)


async def current_file(view: ReadModel, feed: ViewFeed, store: ObjectStore, file_id: str) -> StoredFile | None:
    """A file's object, or None when there is none anywhere; raises UnavailableError."""
    found = view.file(file_id)
    if found is None:
        await feed.catch_up()
        found = view.file(file_id)
    return found or await stored_file(store, file_id)
