"""What does the store know of an id that the view lacks? SHELL: the log may have lost it, the store has not.

Asked before an answer is 404, so that what was accepted is found even where nobody ran `headrace recover` yet.
"""

import re

from shared.batch_state import BatchView
from shared.messages import BatchCancelRequested, BatchClosed, BatchCreated, BatchDispatched, StoredFile
from shared.object_store import (
    ObjectStore,
    cancel_key,
    file_object_key,
    final_key,
    manifest_key,
    read_json,
    validated_key,
)

# Whatever a client writes into a path; only what could be an id becomes a key.
_ID = re.compile(r"(batch_|file-)[A-Za-z0-9_-]{1,64}")


async def stored_batch(store: ObjectStore, batch_id: str) -> BatchView | None:
    """The batch as its objects tell it, or None when it was never created; raises UnavailableError."""
    if not _ID.fullmatch(batch_id):
        return None
    created = await read_json(store, manifest_key(batch_id), BatchCreated)
    if created is None:
        return None
    return BatchView(
        created=created,
        cancel=await read_json(store, cancel_key(batch_id), BatchCancelRequested),
        dispatch=await read_json(store, validated_key(batch_id), BatchDispatched),
        closed=await read_json(store, final_key(batch_id), BatchClosed),
    )


async def stored_file(store: ObjectStore, file_id: str) -> StoredFile | None:
    """An uploaded file's object, or None; result files are told by their batch."""
    return await read_json(store, file_object_key(file_id), StoredFile) if _ID.fullmatch(file_id) else None
