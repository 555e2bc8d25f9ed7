"""Which calls of the object store belong to a trace? SHELL: a store around a store, a CLIENT span for each operation.

Only inside a span that is recorded: segments, which nobody asked for, are measured and not traced.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Tracer

from shared.errors import ObjectExists, ObjectNotFound
from shared.object_store import ObjectStore


class TracedStore:
    """The same store, told about in traces."""

    def __init__(self, store: ObjectStore, tracer: Tracer, bucket: str) -> None:
        self._store = store
        self._tracer = tracer
        self._bucket = bucket

    async def create(self, key: str, data: bytes | BinaryIO) -> None:
        """As ObjectStore."""
        with self._span("create", key):
            await self._store.create(key, data)

    async def adopt(self, key: str, path: Path) -> None:
        """As ObjectStore."""
        with self._span("create", key):
            await self._store.adopt(key, path)

    async def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """As ObjectStore."""
        with self._span("read", key):
            return await self._store.read(key, start, length)

    def stream(self, key: str, start: int = 0) -> AsyncIterator[bytes]:
        """As ObjectStore; its reader's pace is not the store's, so it has no span."""
        return self._store.stream(key, start)

    async def local_copy(self, key: str, start: int, end: int, path: Path) -> tuple[Path, int]:
        """As ObjectStore."""
        with self._span("download", key):
            return await self._store.local_copy(key, start, end, path)

    async def size(self, key: str) -> int | None:
        """As ObjectStore."""
        with self._span("size", key):
            return await self._store.size(key)

    async def keys(self, prefix: str) -> list[str]:
        """As ObjectStore."""
        with self._span("list", prefix):
            return await self._store.keys(prefix)

    async def concatenate(self, key: str, parts: Sequence[str]) -> None:
        """As ObjectStore."""
        with self._span("concatenate", key):
            await self._store.concatenate(key, parts)

    async def delete(self, key: str) -> None:
        """As ObjectStore."""
        with self._span("delete", key):
            await self._store.delete(key)

    async def ask(self) -> None:
        """As ObjectStore."""
        await self._store.ask()

    async def close(self) -> None:
        """As ObjectStore."""
        await self._store.close()

    @contextmanager
    def _span(self, operation: str, key: str) -> Iterator[None]:
        """An object that is there, or is not, is an answer and no failure."""
        if not trace.get_current_span().is_recording():
            yield
            return
        attributes = {"aws.s3.bucket": self._bucket, "aws.s3.key": key}
        expected: Exception | None = None
        with self._tracer.start_as_current_span(f"{operation} object", kind=SpanKind.CLIENT, attributes=attributes):
            try:
                yield
            except (ObjectExists, ObjectNotFound) as answer:
                expected = answer
        if expected is not None:
            raise expected
