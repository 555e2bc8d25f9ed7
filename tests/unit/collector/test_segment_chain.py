"""The chain: append, walk, fence, and refuse what is not one chain."""

import hashlib

import pytest

from services.collector.segment_chain import FIRST_SHA256, BrokenChain, ChainTaken, SegmentChain
from shared.record_headers import CompletionHeaders
from tests.fakes import MemoryObjectStore


def chain_of(store: MemoryObjectStore) -> SegmentChain:
    return SegmentChain(store, "log", "completions", 0)


async def extend(chain: SegmentChain, line: int, next_offset: int, payload: bytes = b"{}\n") -> str:
    builder = chain.builder()
    record = CompletionHeaders(kind="line", batch_id="b", line=line, total=100, succeeded=True)
    builder.add(record, payload)
    return await chain.append(builder.build(next_offset))


async def walk(chain: SegmentChain) -> list[int]:
    return [entry.line async for segment in chain.walk() for entry in segment.entries]


async def test_walk_reads_what_was_appended_and_append_goes_on_there() -> None:
    store = MemoryObjectStore()
    first = chain_of(store)
    first.start_at(7)
    keys = [await extend(first, 1, 10), await extend(first, 2, 15)]

    second = chain_of(store)
    assert await walk(second) == [1, 2]
    keys.append(await extend(second, 3, 20, b"x" * 300_000))

    third = chain_of(store)
    assert await walk(third) == [1, 2, 3]
    assert third.next_offset == 20
    assert [key.rsplit("/", 1)[1] for key in keys] == [f"{offset:020d}" for offset in (7, 10, 15)]


async def test_each_footer_names_the_hash_of_the_segment_before() -> None:
    store = MemoryObjectStore()
    chain = chain_of(store)
    chain.start_at(0)
    keys = [await extend(chain, 1, 10), await extend(chain, 2, 15)]

    footers = [segment.footer async for segment in chain_of(store).walk()]

    assert footers[0].previous_sha256 == FIRST_SHA256
    assert footers[1].previous_sha256 == hashlib.sha256(store.objects[keys[0]]).hexdigest()


async def test_only_one_of_two_owners_extends() -> None:
    store = MemoryObjectStore()
    one, other = chain_of(store), chain_of(store)
    one.start_at(0)
    other.start_at(0)
    await extend(one, 1, 10)

    with pytest.raises(ChainTaken):
        await extend(other, 1, 5)

    assert await walk(other) == [1]
    await extend(other, 2, 12)


async def test_gap_is_not_built_upon() -> None:
    store = MemoryObjectStore()
    chain = chain_of(store)
    chain.start_at(0)
    keys = [await extend(chain, n, n * 10 + 10) for n in range(3)]
    del store.objects[keys[1]]

    with pytest.raises(BrokenChain):
        await walk(chain_of(store))


async def test_oldest_segments_go_and_the_chain_goes_on() -> None:
    store = MemoryObjectStore()
    chain = chain_of(store)
    chain.start_at(0)
    for number in range(4):
        await extend(chain, number, 10 * (number + 1))

    assert await chain.remove_before(20) == 2
    assert await chain.remove_before(20) == 0, "safe to repeat"

    again = chain_of(store)
    assert await walk(again) == [2, 3]
    await extend(again, 4, 50)
    assert await walk(chain_of(store)) == [2, 3, 4]


async def test_owner_that_slept_cannot_use_a_key_that_was_freed() -> None:
    """Without the marker the sleeper would win a fence that is long past, and count lines that nobody reads."""
    store = MemoryObjectStore()
    sleeper, owner = chain_of(store), chain_of(store)
    sleeper.start_at(0)
    await extend(sleeper, 0, 10)
    await walk(owner)
    for number in (1, 2, 3):
        await extend(owner, number, 10 * (number + 1))
    await owner.remove_before(30)

    with pytest.raises(ChainTaken, match="the chain starts at 30"):
        await extend(sleeper, 1, 40)

    assert await walk(chain_of(store)) == [3], "what the sleeper left is not in the chain"


async def test_chain_that_is_shortened_while_it_is_read_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryObjectStore()
    chain = chain_of(store)
    chain.start_at(0)
    for number in range(3):
        await extend(chain, number, 10 * (number + 1))
    reader, keys = chain_of(store), store.keys

    async def shorten_meanwhile(prefix: str) -> list[str]:
        found = await keys(prefix)
        monkeypatch.setattr(store, "keys", keys)
        await chain.remove_before(20)
        return found

    monkeypatch.setattr(store, "keys", shorten_meanwhile)

    with pytest.raises(ChainTaken, match="shortened"):
        await walk(reader)


async def test_missing_start_of_a_shortened_chain_is_refused() -> None:
    store = MemoryObjectStore()
    chain = chain_of(store)
    chain.start_at(0)
    keys = [await extend(chain, number, 10 * (number + 1)) for number in range(3)]
    await chain.remove_before(10)
    await store.delete(keys[1])

    with pytest.raises(BrokenChain, match="should start at 10"):
        await walk(chain_of(store))


async def test_chain_whose_beginning_was_lost_is_refused() -> None:
    store = MemoryObjectStore()
    chain = chain_of(store)
    chain.start_at(0)
    keys = [await extend(chain, number, 10 * (number + 1)) for number in range(3)]
    await store.delete(keys[0])

    with pytest.raises(BrokenChain, match="no marker"):
        await walk(chain_of(store))
