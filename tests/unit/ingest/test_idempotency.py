"""One key, one batch: for a day, whoever asks first."""

import asyncio

import pytest

from services.ingest.idempotency import KEPT_S, Idempotency, Note
from shared.messages import BatchCreated
from tests.fakes import MemoryObjectStore


def note(batch_id: str, fingerprint: str = "f", created_at: int = 100) -> Note:
    created = BatchCreated(
        id=batch_id, endpoint="e", input_file_id="f", completion_window="24h", created_at=created_at, expires_at=9
    )
    return Note(fingerprint=fingerprint, created=created)


async def test_first_note_holds_for_a_day() -> None:
    keys = Idempotency(MemoryObjectStore())

    assert (await keys.claim("t", "k", note("a"), 100)).created.id == "a"
    assert (await keys.claim("t", "k", note("b", "other"), 200)).created.id == "a"
    assert (await keys.claim("other", "k", note("c"), 200)).created.id == "c"
    late = 100 + KEPT_S
    assert (await keys.claim("t", "k", note("d", created_at=late), late)).created.id == "d"
    assert (await keys.claim("t", "k", note("e", created_at=late + 1), late + 1)).created.id == "d"


async def test_of_many_at_once_one_wins() -> None:
    keys = Idempotency(MemoryObjectStore())

    held = await asyncio.gather(*(keys.claim("t", "k", note(str(n)), 100) for n in range(20)))

    assert len({each.created.id for each in held}) == 1


async def test_note_that_another_instance_writes_while_one_looks_is_the_one_that_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryObjectStore()
    slow, quick, look = Idempotency(store), Idempotency(store), store.keys

    async def overtaken(prefix: str) -> list[str]:
        found = await look(prefix)
        monkeypatch.setattr(store, "keys", look)
        await quick.claim("t", "k", note("quick"), 100)
        return found

    monkeypatch.setattr(store, "keys", overtaken)

    assert (await slow.claim("t", "k", note("slow"), 100)).created.id == "quick"
    assert len(store.objects) == 1


async def test_old_notes_are_swept() -> None:
    store = MemoryObjectStore()
    keys = Idempotency(store)
    await keys.claim("t", "k", note("a"), 100)

    assert await keys.sweep(100 + KEPT_S) == 0
    assert await keys.sweep(100 + 2 * KEPT_S) == 1
    assert store.objects == {}


async def test_keys_are_not_mixed_up_by_where_they_are_cut() -> None:
    keys = Idempotency(MemoryObjectStore())

    assert (await keys.claim("ab", "c", note("a"), 1)).created.id == "a"
    assert (await keys.claim("a", "bc", note("b"), 1)).created.id == "b"
