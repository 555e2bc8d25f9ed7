"""Files past their end go, with bytes and record; what an open batch reads stays until it has ended."""

from typing import Any

import pytest

from services.ingest.file_keeper import FileKeeper
from shared.batch_state import BatchView
from shared.messages import BatchCreated, StoredFile
from shared.object_store import file_key, file_object_key
from tests.fakes import QUIET, MemoryObjectStore


class Log:
    """View and log writer in one."""

    def __init__(self) -> None:
        self.files: dict[str, StoredFile] = {}
        self.reading: list[str] = []

    async def write_file(self, file: StoredFile) -> None:
        self.files[file.id] = file

    async def forget_file(self, file_id: str) -> None:
        del self.files[file_id]

    def files_over(self, now_s: int) -> list[StoredFile]:
        return [file for file in self.files.values() if file.is_over(now_s)]

    def open_batches(self) -> list[BatchView]:
        return [
            BatchView(
                BatchCreated(
                    id="b", endpoint="e", input_file_id=name, completion_window="24h", created_at=1, expires_at=2
                )
            )
            for name in self.reading
        ]


def desk() -> tuple[FileKeeper, Log, MemoryObjectStore]:
    log, store = Log(), MemoryObjectStore()
    both: Any = log
    return (
        FileKeeper(view=both, store=store, log_writer=both, batch_file_expires_after_s=3600, telemetry=QUIET),
        log,
        store,
    )


async def add(keeper: FileKeeper, store: MemoryObjectStore, file_id: str, **changes: Any) -> StoredFile:
    base: dict[str, Any] = {"tenant": "t", "purpose": "batch", "filename": "f", "num_bytes": 1, "expires_after_s": None}
    file = keeper.describe(file_id, **(base | changes))
    store.objects[file_key(file_id)] = b"x"
    await keeper.add(file)
    return file


async def test_files_of_batches_have_an_end_and_others_only_when_it_was_asked_for() -> None:
    keeper, _, store = desk()

    batch = await add(keeper, store, "file-a")
    other = await add(keeper, store, "file-b", purpose="user_data")
    short = await add(keeper, store, "file-c", expires_after_s=7200)

    assert batch.expires_at == batch.created_at + 3600
    assert other.expires_at is None
    assert short.expires_at == short.created_at + 7200


async def test_sweep_removes_what_has_expired_and_nothing_else() -> None:
    keeper, log, store = desk()
    soon, late = await add(keeper, store, "file-a"), await add(keeper, store, "file-b", expires_after_s=7200)
    assert soon.expires_at is not None

    assert await keeper.sweep(soon.expires_at - 1) == 0
    assert await keeper.sweep(soon.expires_at) == 1

    assert set(log.files) == {late.id}
    assert set(store.objects) == {file_key(late.id), file_object_key(late.id)}


async def test_input_of_an_open_batch_keeps_its_bytes_until_the_batch_has_ended() -> None:
    keeper, log, store = desk()
    file = await add(keeper, store, "file-a")
    log.reading = [file.id]

    await keeper.delete(file)

    assert not log.files[file.id].is_visible("t", 0), "its user has lost it at once"
    assert set(store.objects) == {file_key(file.id)}
    assert await keeper.sweep(0) == 0
    log.reading = []
    assert await keeper.sweep(0) == 1
    assert (log.files, store.objects) == ({}, {})


async def test_deletion_that_died_half_way_is_finished_by_the_sweep() -> None:
    keeper, log, store = desk()
    file = await add(keeper, store, "file-a")
    store.delete = None  # type: ignore[method-assign,assignment]
    with pytest.raises(TypeError):
        await keeper.delete(file)
    del store.delete

    assert await keeper.sweep(0) == 1
    assert (log.files, store.objects) == ({}, {})
