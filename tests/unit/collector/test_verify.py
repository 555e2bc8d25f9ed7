"""A batch is checked from the store alone, while a collector may remove segments from it."""

from collections.abc import AsyncIterator

import pytest

from services.collector.segment_chain import SegmentChain
from services.collector.verify import Verifier
from shared.errors import ObjectStoreError
from tests.fakes import MemoryObjectStore
from tests.unit.collector.test_finalizer import closed_batch, finalizer


async def finish_batch(store: MemoryObjectStore) -> None:
    await finalizer(store).finalize(await closed_batch(store, list(range(9)), 9))


class ShorteningStore(MemoryObjectStore):
    """Loses segments while they are hashed, as by a collector beside the reader."""

    def __init__(self, marks: bool) -> None:
        super().__init__()
        self.marks = marks
        self.armed = False

    async def stream(self, key: str, start: int = 0) -> AsyncIterator[bytes]:
        if self.armed and key.startswith("spool/"):
            self.armed = False
            await self._shorten()
        async for chunk in super().stream(key, start):
            yield chunk

    async def _shorten(self) -> None:
        if not self.marks:
            del self.objects[(await self.keys("spool/"))[0]]
            return
        chain = SegmentChain(self, "log", "completions", 0)
        offsets = [segment.footer.first_offset async for segment in chain.walk()]
        await chain.remove_before(offsets[-1])


async def test_segments_that_are_collected_meanwhile_are_not_missed() -> None:
    store = ShorteningStore(marks=True)
    await finish_batch(store)
    assert not (await Verifier(store).verify("batch_1")).problems
    store.armed = True

    report = await Verifier(store).verify("batch_1")

    assert not report.problems
    assert "segments of the batch were collected, only its files are checked" in report.checked


async def test_segment_that_goes_without_a_marker_is_a_loss() -> None:
    store = ShorteningStore(marks=False)
    await finish_batch(store)
    store.armed = True

    assert (await Verifier(store).verify("batch_1")).problems


async def test_store_that_fails_is_a_problem_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryObjectStore()
    await finish_batch(store)

    async def fail(prefix: str) -> list[str]:
        raise ObjectStoreError(f"no list of {prefix}")

    monkeypatch.setattr(store, "keys", fail)

    assert "no list of" in (await Verifier(store).verify("batch_1")).problems[0]
