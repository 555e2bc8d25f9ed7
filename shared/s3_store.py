"""Objects in an S3 bucket. SHELL: the `minio` client in its own bounded thread pool.

Create-only is a presigned PUT sent with `If-None-Match: *`, because the client's public API has no
conditional write in its 7.2 line; every server that honours the header answers 412 to the second write.
"""

import asyncio
import io
import os
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from shared.errors import (
    HeadraceError,
    ObjectExists,
    ObjectNotFound,
    ObjectStoreError,
    SetupError,
    UnavailableError,
)
from shared.object_store import CHUNK_BYTES, download
from shared.settings import StoreSettings

T = TypeVar("T")
_MISSING = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchObject"})
# What the client raises when it cannot read an answer at all.
_NOT_S3 = (UnicodeDecodeError, ET.ParseError)
_MAX_CONNECTIONS_EXTRA = 2
PUT_BYTES_MAX = 5 * 1024**3
ASK_TIMEOUT_S = 3.0


class S3Store:
    """An ObjectStore in one bucket, which is created when it does not exist."""

    def __init__(self, bucket: str, settings: StoreSettings) -> None:
        endpoint = urlsplit(settings.s3_endpoint)
        if endpoint.scheme not in ("http", "https") or not endpoint.netloc:
            raise SetupError(f"HEADRACE_STORE__S3_ENDPOINT={settings.s3_endpoint!r}: expected http(s)://HOST:PORT")
        self._bucket = bucket
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="store")
        # No retries inside: a repeated create-only PUT meets its own first try, which looks like a lost race.
        self._http = _connections(settings.threads + _MAX_CONNECTIONS_EXTRA, settings.timeout_s)
        self._client = _client(settings, self._http)
        # Of its own, so that a store that is busy with us does not look as if it were away.
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="ask store")
        self._asking_http = _connections(1, ASK_TIMEOUT_S)
        self._asking_client = _client(settings, self._asking_http)

    async def open(self) -> None:
        """Check the address and the keys, and make the bucket; raises SetupError."""

        def ensure_bucket() -> None:
            try:
                if not self._client.bucket_exists(bucket_name=self._bucket):
                    self._client.make_bucket(bucket_name=self._bucket)
            except S3Error as error:
                if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise SetupError(
                        f"bucket {self._bucket}: {error.code}: {error.message}; check keys and name"
                    ) from error
            except (urllib3.exceptions.HTTPError, MinioException, ValueError) as error:
                raise SetupError(f"bucket {self._bucket}: {error}; check HEADRACE_STORE__S3_ENDPOINT") from error

        await self._run(ensure_bucket)

    async def create(self, key: str, data: bytes | BinaryIO) -> None:
        await self._run(lambda: self._create(key, data))

    async def adopt(self, key: str, path: Path) -> None:
        with path.open("rb") as content:
            await self.create(key, content)

    async def local_copy(self, key: str, start: int, end: int, path: Path) -> tuple[Path, int]:
        return await download(self, key, start, end, path)

    async def concatenate(self, key: str, parts: Sequence[str]) -> None:
        def put() -> None:
            sizes = [self._stat(part) for part in parts]
            if sum(sizes) > PUT_BYTES_MAX:
                raise ObjectStoreError(f"{key} would have {sum(sizes)} bytes; S3 takes {PUT_BYTES_MAX} at once")
            joined = io.BufferedReader(_Joined(self._get, parts), CHUNK_BYTES)
            url = self._client.presigned_put_object(bucket_name=self._bucket, object_name=key)
            with joined:
                self._put(url, key, joined, sum(sizes))

        await self._run(put)

    async def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            return b""
        return await self._run(lambda: self._read(key, start, length or 0))

    async def stream(self, key: str, start: int = 0) -> AsyncIterator[bytes]:
        response = await self._run(lambda: self._get(key, start, 0))
        if response is None:
            return
        try:
            while chunk := await self._run(lambda: response.read(CHUNK_BYTES)):
                yield chunk
        finally:
            response.close()
            response.release_conn()

    async def size(self, key: str) -> int | None:
        try:
            return await self._run(lambda: self._stat(key))
        except ObjectNotFound:
            return None

    async def keys(self, prefix: str) -> list[str]:
        def collect() -> list[str]:
            objects = self._client.list_objects(bucket_name=self._bucket, prefix=prefix, recursive=True)
            return sorted(str(item.object_name) for item in objects)

        return await self._run(collect)

    async def delete(self, key: str) -> None:
        await self._run(lambda: self._client.remove_object(bucket_name=self._bucket, object_name=key))

    async def close(self) -> None:
        for pool in (self._pool, self._asking):
            pool.shutdown(wait=True, cancel_futures=pool is self._asking)
        self._http.clear()
        self._asking_http.clear()

    async def ask(self) -> None:
        def look() -> None:
            if not self._asking_client.bucket_exists(bucket_name=self._bucket):
                raise ObjectStoreError(f"there is no bucket {self._bucket}")

        await self._run(look, self._asking)

    async def _run(self, work: Callable[[], T], pool: ThreadPoolExecutor | None = None) -> T:
        def guarded() -> T:
            try:
                return work()
            except (MinioException, urllib3.exceptions.HTTPError, *_NOT_S3) as error:
                raise _as_ours(error) from error

        return await asyncio.get_running_loop().run_in_executor(pool or self._pool, guarded)

    def _create(self, key: str, data: bytes | BinaryIO) -> None:
        url = self._client.presigned_put_object(bucket_name=self._bucket, object_name=key)
        if isinstance(data, bytes):
            self._put(url, key, data, len(data))
        else:
            length = data.seek(0, os.SEEK_END)
            data.seek(0)
            self._put(url, key, data, length)

    def _put(self, url: str, key: str, body: Any, length: int) -> None:
        headers = {"If-None-Match": "*", "Content-Length": str(length)}
        response = self._http.request("PUT", url, body=body, headers=headers)
        if response.status == 412:
            raise ObjectExists(f"{key} exists")
        if response.status == 409 or _may_pass(response.status):
            raise UnavailableError(f"object store answered {response.status} to the creation of {key}")
        if response.status != 200:
            raise ObjectStoreError(
                f"object store answered {response.status} to the creation of {key}: {response.data[:300]!r}"
            )

    def _stat(self, key: str) -> int:
        return self._client.stat_object(bucket_name=self._bucket, object_name=key).size or 0

    def _get(self, key: str, start: int, length: int) -> urllib3.BaseHTTPResponse | None:
        try:
            return self._client.get_object(bucket_name=self._bucket, object_name=key, offset=start, length=length)
        except S3Error as error:
            if error.code == "InvalidRange":
                return None
            raise

    def _read(self, key: str, start: int, length: int) -> bytes:
        response = self._get(key, start, length)
        if response is None:
            return b""
        try:
            return response.read()
        finally:
            response.close()
            response.release_conn()


def _as_ours(error: Exception) -> HeadraceError:
    """What the caller can do about an error of the client (see shared/errors.py).

    Only an S3Error is the store's own word: a HEAD has no body, and what stands before a store answers in HTML.
    """
    if not isinstance(error, S3Error):
        return UnavailableError(f"object store: {type(error).__name__}: {error}")
    if error.code in _MISSING:
        return ObjectNotFound(f"no object {error.object_name}")
    kind = UnavailableError if _may_pass(error.response.status) else ObjectStoreError
    return kind(f"object store: {error.code}: {error.message} ({error.object_name})")


def _may_pass(status: int) -> bool:
    return status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _connections(number: int, timeout_s: float) -> urllib3.PoolManager:
    timeout = urllib3.Timeout(connect=min(5.0, timeout_s), read=timeout_s)
    return urllib3.PoolManager(maxsize=number, timeout=timeout, retries=False)


def _client(settings: StoreSettings, http: urllib3.PoolManager) -> Minio:
    endpoint = urlsplit(settings.s3_endpoint)
    return Minio(
        endpoint=endpoint.netloc,
        access_key=settings.s3_access_key.get_secret_value() or None,
        secret_key=settings.s3_secret_key.get_secret_value() or None,
        region=settings.s3_region,
        secure=endpoint.scheme == "https",
        http_client=http,
    )


class _Joined(io.RawIOBase):
    """Objects as one stream: each is opened when the one before it has ended."""

    def __init__(self, get: Callable[[str, int, int], urllib3.BaseHTTPResponse | None], parts: Sequence[str]) -> None:
        self._get = get
        self._parts = list(parts)
        self._current: urllib3.BaseHTTPResponse | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._current is not None or self._parts:
            if self._current is None:
                self._current = self._get(self._parts.pop(0), 0, 0)
                continue
            if chunk := self._current.read(len(buffer)):
                buffer[: len(chunk)] = chunk
                return len(chunk)
            self._release()
        return 0

    def close(self) -> None:
        self._release()
        super().close()

    def _release(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            current.close()
            current.release_conn()
