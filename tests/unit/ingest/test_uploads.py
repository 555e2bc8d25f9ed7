"""Uploads: parts in any order, one end, every step repeatable."""

import hashlib
import time
from typing import Any

import pytest

from services.ingest.file_keeper import FileKeeper
from services.ingest.uploads import KEPT_S, LIFETIME_S, Announced, Upload, UploadRefused, Uploads
from shared.messages import StoredFile
from shared.object_store import file_key, part_key
from tests.fakes import QUIET, MemoryObjectStore

ID = "upload_1"


class NoLog:
    """A log writer that remembers."""

    def __init__(self) -> None:
        self.files: list[StoredFile] = []

    async def write_file(self, file: StoredFile) -> None:
        self.files.append(file)


class Desk:
    """Uploads over a store in memory."""

    def __init__(self) -> None:
        self.store, self.log = MemoryObjectStore(), NoLog()
        log: Any = self.log
        view: Any = None
        keeper = FileKeeper(
            view=view, store=self.store, log_writer=log, batch_file_expires_after_s=3600, telemetry=QUIET
        )
        self.uploads = Uploads(self.store, keeper)

    async def start(self, num_bytes: int = 6, **changes: Any) -> Upload:
        base: dict[str, Any] = {"id": ID, "tenant": "t", "bytes": num_bytes, "filename": "f", "mime_type": "m"}
        base |= {"purpose": "user_data", "created_at": int(time.time())}
        return await self.uploads.start(Announced(**(base | changes)))

    async def part(self, name: str, data: bytes) -> None:
        await self.store.create(part_key(ID, name), data)

    async def found(self) -> Upload:
        upload = await self.uploads.find("t", ID)
        assert upload is not None
        return upload


async def test_order_is_that_of_the_list_not_of_arrival() -> None:
    desk = Desk()
    await desk.start()
    await desk.part("b", b"def")
    await desk.part("a", b"abc")

    done = await desk.uploads.complete(await desk.found(), ["a", "b"], hashlib.md5(b"abcdef").hexdigest().upper())

    assert done.ended is not None
    assert done.ended.file is not None
    assert desk.store.objects[file_key(done.ended.file.id)] == b"abcdef"
    assert [file.bytes for file in desk.log.files] == [6]
    assert not await desk.store.keys(part_key(ID, ""))
    again = await desk.uploads.complete(await desk.found(), ["a", "b"], None)
    assert again.ended == done.ended, "a client that did not hear the answer calls again"


@pytest.mark.parametrize(
    ("part_ids", "md5", "param"),
    [(["a"], None, "part_ids"), (["a", "b", "c"], None, "part_ids"), (["a", "b"], "0" * 32, "md5")],
)
async def test_what_does_not_fit_is_refused_and_may_be_corrected(
    part_ids: list[str], md5: str | None, param: str
) -> None:
    desk = Desk()
    await desk.start()
    await desk.part("a", b"abc")
    await desk.part("b", b"def")

    with pytest.raises(UploadRefused) as refused:
        await desk.uploads.complete(await desk.found(), part_ids, md5)

    assert refused.value.param == param
    assert (await desk.found()).status(time.time()) == "pending"
    await desk.uploads.complete(await desk.found(), ["b", "a"], None)


async def test_first_decision_about_the_end_wins() -> None:
    desk = Desk()
    pending = await desk.start(0)
    cancelled = await desk.uploads.cancel(pending)

    assert cancelled.status(time.time()) == "cancelled"
    with pytest.raises(UploadRefused, match="already cancelled"):
        await desk.uploads.complete(pending, [], None)  # it looked before the cancel
    assert (await desk.uploads.cancel(await desk.found())).ended == cancelled.ended
    assert desk.log.files == []


async def test_death_between_the_decision_and_the_file_is_made_good_by_the_next_call() -> None:
    desk = Desk()
    await desk.start()
    await desk.part("a", b"abcdef")
    join = desk.store.concatenate

    async def dies(*_: Any) -> None:
        raise RuntimeError("killed")

    desk.store.concatenate = dies  # type: ignore[method-assign,assignment]
    with pytest.raises(RuntimeError):
        await desk.uploads.complete(await desk.found(), ["a"], None)
    desk.store.concatenate = join  # type: ignore[method-assign]

    done = await desk.uploads.complete(await desk.found(), ["a"], None)

    assert done.ended is not None
    assert len(desk.log.files) == 1
    with pytest.raises(UploadRefused):
        await desk.uploads.cancel(await desk.found())


async def test_expired_one_takes_nothing_and_is_swept() -> None:
    desk = Desk()
    old = int(time.time()) - LIFETIME_S
    upload = await desk.start(0, created_at=old)
    await desk.part("a", b"x")

    assert upload.status(time.time()) == "expired"
    for call in (desk.uploads.complete(upload, [], None), desk.uploads.cancel(upload)):
        with pytest.raises(UploadRefused, match="expired"):
            await call
    assert await desk.uploads.sweep(old + KEPT_S - 1) == 0
    assert await desk.uploads.sweep(old + KEPT_S) == 1
    assert desk.store.objects == {}


async def test_other_tenants_see_nothing() -> None:
    desk = Desk()
    await desk.start()

    assert await desk.uploads.find("other", ID) is None
    assert await desk.uploads.find("t", "upload_2") is None


async def test_call_that_is_overtaken_by_an_equal_one_gets_the_same_file() -> None:
    desk = Desk()
    await desk.start()
    await desk.part("a", b"abcdef")
    overtaken = await desk.found()

    first = await desk.uploads.complete(await desk.found(), ["a"], None)
    second = await desk.uploads.complete(overtaken, ["a"], hashlib.md5(b"abcdef").hexdigest())

    assert first.ended is not None
    assert second.ended == first.ended
    with pytest.raises(UploadRefused, match="already completed"):
        await desk.uploads.complete(overtaken, ["other"], None)
