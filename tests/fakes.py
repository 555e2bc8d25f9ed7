"""Small stand-ins with the same ports as the real things."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from services.inference.engine import EngineLoad, EngineRequest, EngineResult
from shared.errors import ObjectExists, ObjectNotFound
from shared.object_store import download
from shared.settings import TelemetrySettings
from shared.telemetry import Telemetry

# Tells nobody anything.
QUIET = Telemetry("test", TelemetrySettings())


class MemoryObjectStore:
    """An ObjectStore in a dictionary."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    async def create(self, key: str, data: bytes | BinaryIO) -> None:
        if key in self.objects:
            raise ObjectExists(key)
        if not isinstance(data, bytes):
            data.seek(0)
            data = data.read()
        self.objects[key] = data

    async def adopt(self, key: str, path: Path) -> None:
        with path.open("rb") as content:
            await self.create(key, content)

    async def local_copy(self, key: str, start: int, end: int, path: Path) -> tuple[Path, int]:
        return await download(self, key, start, end, path)

    async def concatenate(self, key: str, parts: Sequence[str]) -> None:
        await self.create(key, b"".join([await self.read(part) for part in parts]))

    async def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if key not in self.objects:
            raise ObjectNotFound(key)
        return self.objects[key][start : None if length is None else start + length]

    async def stream(self, key: str, start: int = 0) -> AsyncIterator[bytes]:
        content = await self.read(key, start)
        for position in range(0, len(content), 7):
            yield content[position : position + 7]

    async def size(self, key: str) -> int | None:
        return len(self.objects[key]) if key in self.objects else None

    async def keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    async def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    async def ask(self) -> None:
        pass

    async def close(self) -> None:
        pass


class ScriptedEngine:
    """An Engine that answers what a function says."""

    name = "scripted"
    endpoints: tuple[str, ...] = ("/v1/completions",)
    num_slots = 4

    def __init__(self, respond: Callable[[EngineRequest], EngineResult]) -> None:
        self._respond = respond
        self.requests: list[EngineRequest] = []
        self.cancelled: list[str] = []
        self.shown: EngineLoad | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def start(self) -> None:
        pass

    async def answer(self, request: EngineRequest) -> EngineResult:
        self.requests.append(request)
        await self.gate.wait()
        return self._respond(request)

    async def cancel(self, request: EngineRequest) -> None:
        self.cancelled.append(request.request_id)
        self.gate.set()

    def adapters(self) -> tuple[str, ...]:
        return ()

    def load(self) -> EngineLoad | None:
        return self.shown

    def failure(self) -> str | None:
        return None

    async def probe(self) -> None:
        pass

    async def close(self, timeout_s: float) -> None:
        pass
