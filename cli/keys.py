"""`headrace keys`: make, list, rotate and revoke API keys. SHELL: the store first, then the topic `keys`."""

import asyncio
import contextlib
import json
import re
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from shared.api_keys import SCOPES, TENANT_NAME, digest_of, masked, new_secret
from shared.errors import SetupError
from shared.kafka import make_producer, start_client, stop_client
from shared.key_store import publish_key, read_keys, write_key
from shared.messages import ApiKey
from shared.object_store import ObjectStore
from shared.open_store import open_store
from shared.publisher import Publisher
from shared.settings import ServiceSettings, load_settings
from shared.topics import Topics

_DURATION = re.compile(r"([0-9]{1,6})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the log and the store are."""

    kafka: str
    store: str


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """What a new key shall be."""

    tenant: str
    name: str
    scopes: tuple[str, ...]
    expires_after_s: int | None
    requests_per_minute: int | None


def installation(data: Path, kafka: str, store: str) -> Installation:
    """The log and store that were named, else those of the stack that runs in the data folder; raises SetupError."""
    if kafka:
        return Installation(kafka, store)
    try:
        running = json.loads((data / "run" / "stack.json").read_text())
    except FileNotFoundError:
        raise SetupError(f"no stack runs in {data}: start it with 'headrace up', or name --kafka and --store") from None
    return Installation(running["kafka"], running["store"])


def parse_duration(text: str) -> int | None:
    """Seconds of `90d`, `12h`, `30m`; None for the empty string; raises SetupError."""
    if not text:
        return None
    found = _DURATION.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise SetupError(f"{text!r} is no duration: expected a number and s, m, h or d, such as 90d")
    return int(found[1]) * _UNIT_S[found[2]]


def check_request(request: KeyRequest) -> KeyRequest:
    """The request with all scopes when none was named; raises SetupError."""
    if not TENANT_NAME.fullmatch(request.tenant):
        raise SetupError(f"--tenant {request.tenant!r}: expected letters, digits, dots, dashes, at most 63")
    unknown = [scope for scope in request.scopes if scope not in SCOPES]
    if unknown:
        raise SetupError(f"--scope {unknown[0]!r}: expected one of {', '.join(SCOPES)}")
    return replace(request, scopes=request.scopes or SCOPES)


def create(where: Installation, request: KeyRequest) -> tuple[ApiKey, str]:
    """Make a key; the record and the secret, which is shown this one time."""
    return asyncio.run(_create(where, request))


def list_keys(where: Installation) -> list[ApiKey]:
    """All keys, oldest first."""
    return asyncio.run(_list(where))


def rotate(where: Installation, key_id: str, grace_s: int) -> tuple[ApiKey, str]:
    """Make a key like this one, and let this one end after the grace."""
    return asyncio.run(_rotate(where, key_id, grace_s))


def revoke(where: Installation, key_id: str) -> ApiKey:
    """End a key now."""
    return asyncio.run(_revoke(where, key_id))


def describe(key: ApiKey, now_s: float) -> dict[str, object]:
    """A key as a list shows it."""
    state = "revoked" if key.revoked_at is not None else "valid" if key.is_valid(now_s) else "expired"
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "key": key.hint,
        "state": state,
        "scopes": list(key.scopes),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "requests_per_minute": key.requests_per_minute,
    }


class KeyBook:
    """Keys of one installation, open for changes."""

    def __init__(self, store: ObjectStore, publisher: Publisher, topics: Topics) -> None:
        self._store = store
        self._publisher = publisher
        self._topics = topics

    async def add(self, request: KeyRequest) -> tuple[ApiKey, str]:
        """Make a key and its secret."""
        now_s, key_id = int(time.time()), secrets.token_hex(6)
        secret = new_secret(key_id, secrets.token_bytes(32))
        key = ApiKey(
            id=key_id,
            tenant=request.tenant,
            name=request.name,
            sha256=digest_of(secret),
            hint=masked(secret),
            scopes=request.scopes,
            created_at=now_s,
            expires_at=now_s + request.expires_after_s if request.expires_after_s else None,
            requests_per_minute=request.requests_per_minute,
        )
        await write_key(self._store, key)
        await publish_key(self._publisher, self._topics, key)
        return key, secret

    async def find(self, key_id: str) -> ApiKey:
        """A key by id; raises SetupError."""
        key = (await read_keys(self._store)).get(key_id)
        if key is None:
            raise SetupError(f"no key has the id {key_id!r}: 'headrace keys list' shows them")
        return key

    async def end(self, key: ApiKey) -> ApiKey:
        """Write down a decision about the end of a key."""
        await write_key(self._store, key, time.time_ns())
        await publish_key(self._publisher, self._topics, key)
        return key


@contextlib.asynccontextmanager
async def _opened(where: Installation) -> AsyncIterator[KeyBook]:
    settings = load_settings(ServiceSettings)
    kafka = settings.kafka.model_copy(update={"bootstrap": where.kafka})
    store = await open_store(settings.store.model_copy(update={"url": where.store}))
    producer = make_producer(kafka)
    try:
        await start_client(producer, kafka)
        yield KeyBook(store, Publisher(producer), Topics(kafka))
    finally:
        await stop_client(producer)
        await store.close()


async def _create(where: Installation, request: KeyRequest) -> tuple[ApiKey, str]:
    async with _opened(where) as book:
        return await book.add(request)


async def _list(where: Installation) -> list[ApiKey]:
    store = await open_store(load_settings(ServiceSettings).store.model_copy(update={"url": where.store}))
    try:
        return sorted((await read_keys(store)).values(), key=lambda key: (key.created_at, key.id))
    finally:
        await store.close()


async def _rotate(where: Installation, key_id: str, grace_s: int) -> tuple[ApiKey, str]:
    async with _opened(where) as book:
        old, now_s = await book.find(key_id), int(time.time())
        if not old.is_valid(now_s):
            raise SetupError(f"the key {key_id} is not valid any more: make a new one with 'headrace keys create'")
        left_s = old.expires_at - now_s if old.expires_at else None
        made = await book.add(KeyRequest(old.tenant, old.name, old.scopes, left_s, old.requests_per_minute))
        ends_at = min(now_s + grace_s, old.expires_at or now_s + grace_s)
        await book.end(msgspec.structs.replace(old, expires_at=ends_at))
        return made


async def _revoke(where: Installation, key_id: str) -> ApiKey:
    async with _opened(where) as book:
        key = await book.find(key_id)
        return await book.end(msgspec.structs.replace(key, revoked_at=key.revoked_at or int(time.time())))
