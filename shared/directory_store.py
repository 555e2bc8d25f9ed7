"""Objects as files under one directory. SHELL: O_EXCL semantics by hard link, fsync before an object is visible."""

import asyncio
import errno
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import quote

from shared.errors import ObjectExists, ObjectNotFound, ObjectStoreError, SetupError, UnavailableError
from shared.object_store import CHUNK_BYTES

T = TypeVar("T")
_TEMPORARY = ".tmp"


class DirectoryStore:
    """An ObjectStore in a local directory; safe for several processes on one machine."""

    def __init__(self, root: Path, threads: int) -> None:
        self._root = root
        self._temporary = root / _TEMPORARY
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")
        try:
            self._temporary.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SetupError(f"cannot use {root} as object store: {error.strerror}; name a writable folder") from error

    async def create(self, key: str, data: bytes | BinaryIO) -> None:
        await self._run(lambda: self._create(key, data))

    async def adopt(self, key: str, path: Path) -> None:
        await self._run(lambda: self._adopt(key, path))

    async def local_copy(self, key: str, start: int, end: int, path: Path) -> tuple[Path, int]:  # noqa: ARG002 - the port's
        if await self.size(key) is None:
            raise ObjectNotFound(f"no object {key}")
        return self._path(key), 0

    async def concatenate(self, key: str, parts: Sequence[str]) -> None:
        def write(out: BinaryIO) -> None:
            for part in parts:
                try:
                    with self._path(part).open("rb") as source:
                        shutil.copyfileobj(source, out, CHUNK_BYTES)
                except FileNotFoundError:
                    raise ObjectNotFound(f"no object {part}") from None

        await self._run(lambda: self._create_with(key, write))

    async def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return await self._run(lambda: self._read(key, start, length))

    async def stream(self, key: str, start: int = 0) -> AsyncIterator[bytes]:
        position = start
        while True:
            chunk = await self._run(partial(self._read, key, position, CHUNK_BYTES))
            if not chunk:
                return
            position += len(chunk)
            yield chunk

    async def size(self, key: str) -> int | None:
        return await self._run(lambda: self._size(key))

    async def keys(self, prefix: str) -> list[str]:
        return await self._run(lambda: self._list(prefix))

    async def delete(self, key: str) -> None:
        await self._run(lambda: self._path(key).unlink(missing_ok=True))

    async def ask(self) -> None:
        if not await asyncio.to_thread(self._temporary.is_dir):
            raise ObjectStoreError(f"the folder {self._root} is gone")

    async def close(self) -> None:
        self._pool.shutdown(wait=True)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except OSError as error:  # disk full, too many files: it may pass
            raise UnavailableError(f"object store {self._root}: {error}") from error

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts) or parts[0] == _TEMPORARY:
            raise ObjectNotFound(f"no object can have the key {key!r}")
        return self._root.joinpath(*(quote(part, safe="-_.#@+=,:~") for part in parts))

    def _create(self, key: str, data: bytes | BinaryIO) -> None:
        def write(out: BinaryIO) -> None:
            if isinstance(data, bytes):
                out.write(data)
            else:
                data.seek(0)
                shutil.copyfileobj(data, out, CHUNK_BYTES)

        self._create_with(key, write)

    def _adopt(self, key: str, path: Path) -> None:
        def copy(out: BinaryIO) -> None:
            with path.open("rb") as content:
                shutil.copyfileobj(content, out, CHUNK_BYTES)

        with path.open("rb") as content:
            os.fsync(content.fileno())
        try:
            self._link(key, path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._create_with(key, copy)  # the file is on another disk

    def _create_with(self, key: str, write: Callable[[BinaryIO], None]) -> None:
        temporary = self._temporary / uuid.uuid4().hex
        try:
            with temporary.open("xb") as out:
                write(out)
                out.flush()
                os.fsync(out.fileno())
            self._link(key, temporary)
        finally:
            temporary.unlink(missing_ok=True)

    def _link(self, key: str, source: Path) -> None:
        """A link appears whole or not at all, and never replaces: the create-only rule."""
        target = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except FileExistsError:
            raise ObjectExists(f"{key} exists") from None
        _sync_directory(target.parent)

    def _read(self, key: str, start: int, length: int | None) -> bytes:
        try:
            with self._path(key).open("rb") as source:
                source.seek(start)
                return source.read(-1 if length is None else length)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise ObjectNotFound(f"no object {key}") from None

    def _size(self, key: str) -> int | None:
        try:
            return self._path(key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _list(self, prefix: str) -> list[str]:
        folder = self._root.joinpath(*prefix.split("/")[:-1])
        files = (path for path in folder.rglob("*") if path.is_file() and self._temporary not in path.parents)
        keys = (path.relative_to(self._root).as_posix() for path in files)
        return sorted(key for key in keys if key.startswith(prefix))


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
