"""Was this create call made before? SHELL: the store decides, so that every instance gives the same answer.

The first call with a key writes down the batch that it is going to make, create-only; every later one finds it there
and makes sure that it was made. After 24 h a key may be used again: its next note has the next number.
"""

import hashlib
from typing import Final

from shared.errors import ObjectExists
from shared.messages import BatchCreated, Message, encode
from shared.object_store import ObjectStore, read_json

KEPT_S: Final = 24 * 3600
_PREFIX = "idempotency/"


class Note(Message, frozen=True, kw_only=True):
    """What the first call with a key asked for; `fingerprint` is the hash of it."""

    fingerprint: str
    created: BatchCreated


class Idempotency:
    """Keys of create calls, by tenant."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def find(self, tenant: str, key: str, now_s: int) -> Note | None:
        """The note that holds, or None when the key is free."""
        return await self._holding(await self._store.keys(_prefix(tenant, key)), now_s)

    async def claim(self, tenant: str, key: str, wanted: Note, now_s: int) -> Note:
        """Write the note, unless the key was used in the last 24 h; returns the one that holds."""
        prefix = _prefix(tenant, key)
        while True:
            # One look for both: a note that another instance writes meanwhile has the number that is tried here.
            used = await self._store.keys(prefix)
            if (held := await self._holding(used, now_s)) is not None:
                return held
            number = int(used[-1].rpartition("/")[2]) + 1 if used else 0
            try:
                await self._store.create(f"{prefix}{number:010d}", encode(wanted))
            except ObjectExists:
                continue  # another call with this key was faster: it is the first one
            return wanted

    async def _holding(self, used: list[str], now_s: int) -> Note | None:
        note = await read_json(self._store, used[-1], Note) if used else None
        return note if note is not None and _holds(note, now_s) else None

    async def sweep(self, now_s: int) -> int:
        """Remove notes that hold no longer; how many these were."""
        num_removed = 0
        for key in await self._store.keys(_PREFIX):
            note = await read_json(self._store, key, Note)
            if note is not None and now_s >= note.created.created_at + 2 * KEPT_S:
                await self._store.delete(key)
                num_removed += 1
        return num_removed


def _prefix(tenant: str, key: str) -> str:
    name = hashlib.sha256(tenant.encode() + b"\0" + key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{_PREFIX}{name}/"


def _holds(note: Note, now_s: int) -> bool:
    return now_s < note.created.created_at + KEPT_S
