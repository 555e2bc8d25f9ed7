"""What is an object store to Headrace, and under which keys do objects live?

Two implementations stand behind the port: a local directory and an S3 bucket. Writes are create-only.
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import msgspec

from shared.errors import ObjectExists, ObjectNotFound, ObjectStoreError, SetupError

T = TypeVar("T")

CHUNK_BYTES = 1024 * 1024
# Of a download at once.
READ_BYTES = 8 * 1024 * 1024
# Under this prefix a marker says of each chain that lost its oldest segments where it begins.
CHAIN_STARTS = "spool-starts/"


class ObjectStore(Protocol):
    """Create-only objects under flat keys with slashes."""

    async def create(self, key: str, data: bytes | BinaryIO) -> None:
        """Write an object from memory or an open, seekable file; durable on return. Raises ObjectExists."""

    async def adopt(self, key: str, path: Path) -> None:
        """`create` from a local file that nobody changes any more, and that the store may take for its own."""

    async def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes [start, start + length) of an object; raises ObjectNotFound."""

    def stream(self, key: str, start: int = 0) -> AsyncIterator[bytes]:
        """The object from byte `start`, in chunks of at most 1 MiB; raises ObjectNotFound at the first one."""

    async def local_copy(self, key: str, start: int, end: int, path: Path) -> tuple[Path, int]:
        """A local file with bytes [start, end) of an object, to be read only, and the byte that it begins with.

        It is `path`, or the object itself where that is local; raises ObjectNotFound.
        """

    async def size(self, key: str) -> int | None:
        """Bytes of an object, or None when there is none."""

    async def keys(self, prefix: str) -> list[str]:
        """All keys that start with `prefix`, sorted."""

    async def concatenate(self, key: str, parts: Sequence[str]) -> None:
        """Write an object that is other objects joined; as durable and create-only as `create`.

        Raises ObjectExists, and ObjectNotFound when a part is missing.
        """

    async def delete(self, key: str) -> None:
        """Remove an object; no error when there is none."""

    async def ask(self) -> None:
        """See that it answers, whatever else is under way; raises ObjectStoreError, UnavailableError, OSError."""

    async def close(self) -> None:
        """Let go of threads and connections."""


def file_key(file_id: str) -> str:
    """Bytes of a file."""
    return f"files/{file_id}"


def manifest_key(batch_id: str) -> str:
    """What was asked for, written before the create call is answered."""
    return f"batches/{batch_id}/manifest.json"


def file_object_key(file_id: str) -> str:
    """The File object of an upload, so that the store alone knows which files there are."""
    return f"file-objects/{file_id}.json"


def upload_key(upload_id: str, name: str) -> str:
    """`upload.json` of an Upload, and `end.json`: the one way in which it ended."""
    return f"uploads/{upload_id}/{name}"


def part_key(upload_id: str, part_id: str) -> str:
    """Bytes of a part of an Upload."""
    return f"uploads/{upload_id}/parts/{part_id}"


def api_key_key(key_id: str, name: str) -> str:
    """`created.json` of an API key, and `ends/<nanosecond>.json` for each time its end was decided."""
    return f"api-keys/{key_id}/{name}"


def cancel_key(batch_id: str) -> str:
    """The wish to cancel, written before the cancel call is answered."""
    return f"batches/{batch_id}/cancel.json"


def validated_key(batch_id: str) -> str:
    """The one outcome of validation: refused, or how many lines. Create-only, so two dispatchers cannot differ."""
    return f"batches/{batch_id}/validated.json"


def answered_key(batch_id: str, log_id: str) -> str:
    """One bit per line that was answered before the log `log_id` began."""
    return f"batches/{batch_id}/answered/{log_id}"


def shard_key(batch_id: str, shard: int, name: str) -> str:
    """`output`, `error` or `final.json` of one shard of a batch that has several."""
    return f"batches/{batch_id}/shards/{shard}/{name}"


def batch_of_manifest(key: str) -> str | None:
    """The batch whose manifest has this key, or None for any other key."""
    parts = key.split("/")
    return parts[1] if len(parts) == 3 and key == manifest_key(parts[1]) else None


def final_key(batch_id: str) -> str:
    """How the batch ended."""
    return f"batches/{batch_id}/final.json"


def chain_prefix(log_id: str, topic: str, partition: int) -> str:
    """Common prefix of the segments of one partition."""
    return f"spool/{log_id}/{topic}/{partition}/"


def chain_start_prefix(log_id: str, topic: str, partition: int) -> str:
    """Common prefix of the markers that say where a chain begins after its oldest segments were removed."""
    return f"{CHAIN_STARTS}{log_id}/{topic}/{partition}/"


def chain_start_key(log_id: str, topic: str, partition: int, offset: int) -> str:
    """The marker that segments before `offset` are gone for good."""
    return f"{chain_start_prefix(log_id, topic, partition)}{offset:020d}"


def lineage_key(log_id: str) -> str:
    """Which logs were recovered into the log `log_id`, oldest first."""
    return f"lineage/{log_id}.json"


def segment_key(log_id: str, topic: str, partition: int, first_offset: int) -> str:
    """A segment is named after the first offset that it covers, 20 digits, so keys sort by offset."""
    return f"{chain_prefix(log_id, topic, partition)}{first_offset:020d}"


def offset_of_segment(key: str) -> int:
    """The first offset that a segment, or a marker named after one, covers."""
    return int(key.rpartition("/")[2])


async def read_json(store: ObjectStore, key: str, kind: type[T]) -> T | None:
    """The value of a JSON object, or None when there is none; raises ObjectStoreError when it holds something else."""
    try:
        return msgspec.json.decode(await store.read(key), type=kind)
    except ObjectNotFound:
        return None
    except msgspec.MsgspecError as error:
        raise ObjectStoreError(f"{key} does not hold what it should: {error}") from error


async def download(store: ObjectStore, key: str, start: int, end: int, path: Path) -> tuple[Path, int]:
    """`local_copy` of a store that is not local."""
    with path.open("wb") as local:
        for position in range(start, end, READ_BYTES):
            local.write(await store.read(key, position, min(READ_BYTES, end - position)))
    return path, start


async def sha256_of(store: ObjectStore, key: str) -> str:
    """The hash of an object's bytes, in hex; raises ObjectNotFound."""
    digest = hashlib.sha256()
    async for chunk in store.stream(key):
        digest.update(chunk)
    return digest.hexdigest()


async def probe(store: ObjectStore, key: str) -> None:
    """Create the same key twice and demand the refusal: the chain is the fence only if writes are create-only.

    Raises:
        SetupError: the store overwrote the first object.
    """
    await store.create(key, b"1")
    try:
        await store.create(key, b"2")
    except ObjectExists:
        return
    finally:
        await store.delete(key)
    raise SetupError(
        "the object store overwrites existing objects: it ignores 'If-None-Match: *'. "
        "Use one that supports conditional writes (AWS S3, MinIO, Versity gateway, RustFS) or file:///DIR"
    )
