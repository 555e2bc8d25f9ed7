"""How are large lines left in the store and fetched? SHELL: before the record is written, when it is read."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from shared.claim_check import PREFIX, REQUEST_DAYS, RESULT_DAYS, Claim, check_claim, claim_key, claim_of, may_go
from shared.errors import ObjectExists, ObjectNotFound, SetupError, UnavailableError
from shared.messages import UnreadableRecord
from shared.object_store import ObjectStore

# Whoever has to wait for it can do something else instead.
LEAVE_TIMEOUT_S = 20.0


class ClaimStore:
    """Bytes above `inline_bytes_max` belong here."""

    def __init__(self, open_store: Callable[[], Awaitable[ObjectStore]], inline_bytes_max: int) -> None:
        """The store is opened when it is first needed: who never sees a large line does not depend on it."""
        self._open_store = open_store
        self._inline_bytes_max = inline_bytes_max
        self._opened: ObjectStore | None = None

    def is_large(self, value: bytes) -> bool:
        """Whether the value should not be in a record."""
        return len(value) > self._inline_bytes_max

    async def leave_request(self, value: bytes) -> Claim:
        """Make a request line durable; raises UnavailableError."""
        return await self._leave(value, REQUEST_DAYS)

    async def leave_result(self, value: bytes) -> Claim:
        """Make a result line durable; raises UnavailableError."""
        return await self._leave(value, RESULT_DAYS)

    async def fetch(self, claim: Claim) -> bytes:
        """What was claimed; raises UnreadableRecord when it is not there, UnavailableError."""
        store = await self._store()
        try:
            return check_claim(claim, await store.read(claim.key, claim.start, claim.size))
        except ObjectNotFound:
            raise UnreadableRecord(f"claim: {claim.key} does not exist") from None

    async def sweep(self, now_s: float) -> int:
        """Remove what is not needed any more; how many objects."""
        store = await self._store()
        old = [key for key in await store.keys(PREFIX) if may_go(key, now_s)]
        for key in old:
            await store.delete(key)
        return len(old)

    async def close(self) -> None:
        """Let go of the store, if it was opened."""
        store, self._opened = self._opened, None
        if store is not None:
            await store.close()

    async def _store(self) -> ObjectStore:
        if self._opened is None:
            try:
                self._opened = await self._open_store()
            except SetupError as error:  # it may only be away
                raise UnavailableError(str(error)) from error
        return self._opened

    async def _leave(self, value: bytes, days: int) -> Claim:
        key = claim_key(value, time.time(), days)
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                store = await self._store()
                with contextlib.suppress(ObjectExists):
                    await store.create(key, value)
        except TimeoutError as error:
            raise UnavailableError(f"the store took longer than {LEAVE_TIMEOUT_S:.0f} s") from error
        return claim_of(value, key)
