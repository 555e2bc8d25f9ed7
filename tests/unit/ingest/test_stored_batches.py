"""What the store tells of ids that the view lacks."""

import pytest

from services.ingest.stored_batches import stored_batch, stored_file
from shared.batch_state import batch_object
from shared.messages import BatchCancelRequested, BatchClosed, BatchCreated, BatchDispatched, StoredFile, encode
from shared.object_store import cancel_key, file_object_key, final_key, manifest_key, validated_key
from tests.fakes import MemoryObjectStore

ID = "batch_6b01"
CREATED = BatchCreated(id=ID, endpoint="e", input_file_id="f", completion_window="24h", created_at=1, expires_at=9)
FILE = StoredFile(id="file-1", purpose="batch", filename="a", bytes=1, created_at=1, object_key="files/file-1")


async def test_batch_is_told_from_its_objects() -> None:
    store = MemoryObjectStore()
    assert await stored_batch(store, ID) is None

    store.objects[manifest_key(ID)] = encode(CREATED)
    statuses = []
    for key, value in (
        ("", b""),
        (validated_key(ID), encode(BatchDispatched(in_progress_at=2, total=1, model="m"))),
        (cancel_key(ID), encode(BatchCancelRequested(cancelling_at=3))),
        (
            final_key(ID),
            encode(
                BatchClosed(status="cancelled", finalizing_at=3, closed_at=4, total=1, completed=0, failed=0, not_run=1)
            ),
        ),
    ):
        store.objects |= {key: value} if key else {}
        view = await stored_batch(store, ID)
        assert view is not None
        statuses.append(batch_object(view)["status"])

    assert statuses == ["validating", "in_progress", "cancelling", "cancelled"]


async def test_uploaded_file_is_told_from_its_object() -> None:
    store = MemoryObjectStore()
    store.objects[file_object_key("file-1")] = encode(FILE)

    assert await stored_file(store, "file-1") == FILE
    assert await stored_file(store, "file-2") is None


@pytest.mark.parametrize("strange", ["", "..", "a/b", "batch_" + "x" * 2000, "batch_\0", "batch_ü"])
async def test_what_cannot_be_an_id_is_not_asked_for(strange: str) -> None:
    assert await stored_batch(MemoryObjectStore(), strange) is None
    assert await stored_file(MemoryObjectStore(), strange) is None
