"""What is still to change is answered by a view that covers the log as it was when the call came."""

from typing import Any

import pytest

from services.ingest.lookup import Lookup
from shared.batch_state import BatchView
from shared.errors import UnavailableError
from shared.messages import BatchClosed, BatchCreated, StoredFile, encode
from shared.object_store import file_object_key, manifest_key
from tests.fakes import MemoryObjectStore

ID = "batch_1"
CREATED = BatchCreated(id=ID, endpoint="e", input_file_id="f", completion_window="24h", created_at=1, expires_at=9)
CLOSED = BatchClosed(status="completed", finalizing_at=3, closed_at=4, total=1, completed=1, failed=0, not_run=0)
FILE = StoredFile(id="file-1", purpose="batch", filename="a", bytes=1, created_at=1, object_key="files/file-1")


class Replica:
    """A view, and a feed that brings it up to date or cannot."""

    def __init__(self, before: Any, after: Any) -> None:
        self._shown, self._after = before, after

    def batch(self, _id: str) -> Any:
        return self._shown

    file = batch

    async def catch_up(self) -> None:
        if isinstance(self._after, Exception):
            raise self._after
        self._shown = self._after


async def batch_of(replica: Replica, store: MemoryObjectStore) -> BatchView | None:
    return await Lookup(replica, replica, store).batch("default", ID)  # type: ignore[arg-type]


async def test_open_batch_is_shown_as_the_log_has_it_now() -> None:
    fresh = BatchView(CREATED, closed=CLOSED)

    assert await batch_of(Replica(BatchView(CREATED), fresh), MemoryObjectStore()) == fresh
    assert await batch_of(Replica(None, fresh), MemoryObjectStore()) == fresh


async def test_ended_batch_is_shown_at_once_even_without_a_broker() -> None:
    ended = BatchView(CREATED, closed=CLOSED)

    assert await batch_of(Replica(ended, UnavailableError("kafka is away")), MemoryObjectStore()) == ended
    with pytest.raises(UnavailableError):
        await batch_of(Replica(BatchView(CREATED), UnavailableError("kafka is away")), MemoryObjectStore())


async def test_what_the_log_lost_is_looked_up_in_the_store() -> None:
    store = MemoryObjectStore()
    store.objects |= {manifest_key(ID): encode(CREATED), file_object_key("file-1"): encode(FILE)}
    nothing: Any = Replica(None, None)

    assert await batch_of(nothing, store) == BatchView(CREATED)
    assert await Lookup(nothing, nothing, store).file("default", "file-1") == FILE
    assert await Lookup(nothing, nothing, store).file("default", "file-2") is None
