"""What is an object store to Headrace, and under which keys do objects live?

Two implementations stand behind the port: a local directory and an S3 bucket. Writes are create-only.
"""

from collections.abc import AsyncIterator
from typing import BinaryIO, Protocol

from shared.errors import ObjectExists, SetupError

CHUNK_BYTES = 1024 * 1024


class ObjectStore(Protocol):
    """Create-only objects under flat keys with slashes."""

    async def create(self, key: str, data: bytes | BinaryIO) -> None:
        """Write an object from memory or an open, seekable file; durable on return. Raises ObjectExists."""

    async def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes [start, start + length) of an object; raises ObjectNotFound."""

    def stream(self, key: str, start: int = 0) -> AsyncIterator[bytes]:
        """The object from byte `start`, in chunks of at most 1 MiB; raises ObjectNotFound at the first one."""

    async def size(self, key: str) -> int | None:
        """Bytes of an object, or None when there is none."""

    async def keys(self, prefix: str) -> list[str]:
        """All keys that start with `prefix`, sorted."""

    async def delete(self, key: str) -> None:
        """Remove an object; no error when there is none."""

    async def close(self) -> None:
        """Let go of threads and connections."""


def file_key(file_id: str) -> str:
    """Bytes of a file."""
    return f"files/{file_id}"


def manifest_key(batch_id: str) -> str:
    """What was asked for, written before the create call is answered."""
    return f"batches/{batch_id}/manifest.json"


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


def segment_key(log_id: str, topic: str, partition: int, first_offset: int) -> str:
    """A segment is named after the first offset that it covers, 20 digits, so keys sort by offset."""
    return f"{chain_prefix(log_id, topic, partition)}{first_offset:020d}"


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
