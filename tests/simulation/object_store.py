"""The simulated object store, and how a process sees it."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import BinaryIO

from shared.errors import ObjectExists, ObjectNotFound, UnavailableError
from shared.object_store import download
from tests.simulation.process import Process


class Store:
    """Objects of one run; notes every change of one, which is the end of the run."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.overwritten: list[str] = []

    def create(self, key: str, data: bytes) -> None:
        """Create-only."""
        if key in self.objects:
            raise ObjectExists(key)
        self.objects[key] = data

    def of(self, process: Process) -> "StorePort":
        """The store as a process sees it."""
        return StorePort(self, process)


class StorePort:
    """An ObjectStore over `Store` for one process."""

    def __init__(self, store: Store, process: Process) -> None:
        self._store, self._process = store, process

    async def create(self, key: str, data: bytes | BinaryIO) -> None:
        content = data if isinstance(data, bytes) else data.read()
        # Between a terminal record and the news of it lies what is forgotten most easily.
        danger = 10.0 if key.endswith("final.json") else 1.0
        await self._process.operate(
            lambda: self._store.create(key, content), on_lost=UnavailableError("store"), danger=danger
        )

    async def adopt(self, key: str, path: Path) -> None:
        await self.create(key, path.read_bytes())

    async def local_copy(self, key: str, start: int, end: int, path: Path) -> tuple[Path, int]:
        return await download(self, key, start, end, path)

    async def concatenate(self, key: str, parts: Sequence[str]) -> None:
        await self.create(key, b"".join([self._store.objects[part] for part in parts]))

    async def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        def get() -> bytes:
            if key not in self._store.objects:
                raise ObjectNotFound(key)
            return self._store.objects[key][start : None if length is None else start + length]

        return await self._process.operate(get)

    async def stream(self, key: str, start: int = 0) -> AsyncIterator[bytes]:
        yield await self.read(key, start)

    async def size(self, key: str) -> int | None:
        found = self._store.objects.get(key)
        return None if found is None else len(found)

    async def keys(self, prefix: str) -> list[str]:
        return await self._process.operate(lambda: sorted(k for k in self._store.objects if k.startswith(prefix)))

    async def delete(self, key: str) -> None:
        await self._process.operate(lambda: self._store.objects.pop(key, None), on_lost=UnavailableError("store"))

    async def ask(self) -> None:
        pass

    async def close(self) -> None:
        pass
