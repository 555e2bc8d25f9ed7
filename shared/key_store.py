"""Where do API keys last? SHELL: in the object store, create-only; the topic `keys` repeats them for the services.

`created.json` says what was made; each later decision about its end is one more object, and the last one holds.
"""

import contextlib

from shared.errors import ObjectExists
from shared.messages import ApiKey, encode
from shared.object_store import ObjectStore, api_key_key, read_json
from shared.publisher import OutgoingRecord, Publisher
from shared.topics import Topics

KEYS_PREFIX = "api-keys/"
CREATED = "created.json"


async def read_keys(store: ObjectStore) -> dict[str, ApiKey]:
    """All keys as they are now, by id; raises UnavailableError."""
    objects: dict[str, list[str]] = {}
    for name in await store.keys(KEYS_PREFIX):
        _, key_id, rest = name.split("/", 2)
        objects.setdefault(key_id, []).append(rest)
    keys: dict[str, ApiKey] = {}
    for key_id, names in objects.items():
        last = max((name for name in names if name != CREATED), default=CREATED)
        key = await read_json(store, api_key_key(key_id, last), ApiKey)
        if key is not None:
            keys[key_id] = key
    return keys


async def write_key(store: ObjectStore, key: ApiKey, now_ns: int | None = None) -> None:
    """Make a new key durable, or, with the time, a decision about the end of a known one."""
    name = CREATED if now_ns is None else f"ends/{now_ns:020d}.json"
    with contextlib.suppress(ObjectExists):
        await store.create(api_key_key(key.id, name), encode(key))


async def publish_key(publisher: Publisher, topics: Topics, key: ApiKey) -> None:
    """Tell every service; raises UnavailableError."""
    await publisher.send(OutgoingRecord(topics.keys.name, encode(key), 0, key.id.encode()))
