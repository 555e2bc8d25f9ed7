"""Large lines in the store: named after their content, checked when fetched, removed when nobody can want them."""

import asyncio

import pytest

from shared import claim_store
from shared.claim_check import REQUEST_DAYS, Claim, claim_key, claim_of, may_go, parse_claim
from shared.claim_store import ClaimStore
from shared.errors import SetupError, UnavailableError
from shared.messages import UnreadableRecord
from shared.object_store import ObjectStore
from tests.fakes import MemoryObjectStore

DAY_S = 24 * 3600
NOW_S = 1_800_000_000.0


class AwayStore(MemoryObjectStore):
    """Does not answer the first few times."""

    def __init__(self, num_failures: int) -> None:
        super().__init__()
        self.num_failures = num_failures

    def _fail(self) -> None:
        if self.num_failures:
            self.num_failures -= 1
            raise UnavailableError("store")

    async def create(self, key: str, data: object) -> None:
        self._fail()
        await super().create(key, data)  # type: ignore[arg-type]

    async def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        self._fail()
        return await super().read(key, start, length)


def claims_in(store: MemoryObjectStore) -> ClaimStore:
    async def opened() -> ObjectStore:
        return store

    return ClaimStore(opened, inline_bytes_max=3)


async def test_what_was_left_is_fetched_and_leaving_it_twice_is_leaving_it_once() -> None:
    store = MemoryObjectStore()
    claims = claims_in(store)

    claim = await claims.leave_request(b"value")

    assert await claims.leave_request(b"value") == claim
    assert len(store.objects) == 1
    assert await claims.fetch(parse_claim(claim.header())) == b"value"
    assert [claims.is_large(value) for value in (b"", b"abc", b"abcd")] == [False, False, True]


async def test_claim_to_a_part_of_an_object() -> None:
    store = MemoryObjectStore()
    await store.create("files/f", b"one\ntwo\n")

    assert await claims_in(store).fetch(claim_of(b"two", "files/f", 4)) == b"two"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{}",
        "[]",
        '{"key": "k", "start": -1, "size": 1, "sha256": ""}',
        '{"key": "k", "start": 0, "size": 1e12, "sha256": ""}',
        '{"key": "k", "start": 0, "size": 999999999999, "sha256": ""}',
    ],
)
def test_foreign_header_is_unreadable(header: str) -> None:
    with pytest.raises(UnreadableRecord, match="claim"):
        parse_claim(header)


async def test_bytes_that_are_gone_or_others_are_unreadable() -> None:
    store = MemoryObjectStore()
    await store.create("k", b"other")
    claims = claims_in(store)

    with pytest.raises(UnreadableRecord, match="does not exist"):
        await claims.fetch(claim_of(b"value", "gone"))
    with pytest.raises(UnreadableRecord, match="does not hold"):
        await claims.fetch(claim_of(b"value", "k"))
    with pytest.raises(UnreadableRecord, match="does not hold"):
        await claims.fetch(Claim("k", 0, 3, "0" * 64))


async def test_store_that_is_away_or_slow_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    store = AwayStore(2)
    claims = claims_in(store)

    with pytest.raises(UnavailableError):
        await claims.leave_result(b"value")
    with pytest.raises(UnavailableError):
        await claims.fetch(claim_of(b"value", "k"))
    assert await claims.fetch(await claims.leave_result(b"value")) == b"value"

    async def for_ever() -> ObjectStore:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(claim_store, "LEAVE_TIMEOUT_S", 0.01)
    with pytest.raises(UnavailableError, match="longer than"):
        await ClaimStore(for_ever, 3).leave_request(b"value")


async def test_store_is_opened_when_it_is_needed_and_closed_once() -> None:
    opened: list[int] = []

    async def open_store() -> ObjectStore:
        opened.append(1)
        if len(opened) == 1:
            raise SetupError("away")
        return MemoryObjectStore()

    claims = ClaimStore(open_store, 3)
    await claims.close()
    assert opened == []
    with pytest.raises(UnavailableError):
        await claims.leave_result(b"value")
    await claims.leave_result(b"value")
    await claims.leave_result(b"other")
    assert len(opened) == 2, "once that failed, and once"
    await claims.close()


def test_key_says_when_the_object_may_go() -> None:
    key = claim_key(b"value", NOW_S, REQUEST_DAYS)

    assert key != claim_key(b"valve", NOW_S, REQUEST_DAYS)
    assert not may_go(key, NOW_S + REQUEST_DAYS * DAY_S)
    assert may_go(key, NOW_S + (REQUEST_DAYS + 1) * DAY_S)


async def test_sweep_removes_only_what_may_go() -> None:
    store = MemoryObjectStore()
    claims = claims_in(store)
    old, new = claim_key(b"old", NOW_S - 90 * DAY_S, REQUEST_DAYS), claim_key(b"new", NOW_S, REQUEST_DAYS)
    for key in (old, new, "files/f"):
        await store.create(key, b"x")

    assert await claims.sweep(NOW_S) == 1
    assert sorted(store.objects) == sorted([new, "files/f"])
