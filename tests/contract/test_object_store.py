"""One suite for every ObjectStore: the directory, MinIO and the Versity gateway."""

import asyncio
import errno
import io
import os
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.errors import HeadraceError, ObjectExists, ObjectNotFound, ObjectStoreError, SetupError, UnavailableError
from shared.object_store import CHUNK_BYTES, ObjectStore, probe
from shared.open_store import open_store
from shared.s3_store import S3Store
from shared.settings import StoreSettings
from tests.conftest import server
from tests.fakes import MemoryObjectStore
from tests.providers import ACCESS_KEY, SECRET_KEY


def settings_for(kind: str, tmp_path: Path) -> StoreSettings:
    if kind == "directory":
        return StoreSettings(url=f"file://{tmp_path / 'store'}")
    return StoreSettings(
        url=f"s3://bucket-{secrets.token_hex(6)}",
        s3_endpoint=server(kind).address,
        s3_access_key=SecretStr(ACCESS_KEY),
        s3_secret_key=SecretStr(SECRET_KEY),
    )


@pytest.fixture(params=["memory", "directory", "minio", "versity"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    if request.param == "memory":
        yield MemoryObjectStore()
        return
    opened = await open_store(settings_for(request.param, tmp_path))
    yield opened
    await opened.close()


async def read_all(store: ObjectStore, key: str, start: int = 0) -> bytes:
    return b"".join([chunk async for chunk in store.stream(key, start)])


async def test_what_is_created_is_read_back(store: ObjectStore) -> None:
    await store.create("files/a", b"hello world")

    assert await store.read("files/a") == b"hello world"
    assert await store.read("files/a", 6) == b"world"
    assert await store.read("files/a", 2, 3) == b"llo"
    assert await store.read("files/a", 2, 0) == b""
    assert await store.size("files/a") == 11
    assert await read_all(store, "files/a") == b"hello world"
    assert await read_all(store, "files/a", 6) == b"world"


async def test_local_file_is_adopted_once_and_read_where_it_is(store: ObjectStore, tmp_path: Path) -> None:
    path, again = tmp_path / "a", tmp_path / "again"
    path.write_bytes(b"hello world")
    again.write_bytes(b"other")

    await store.adopt("files/a", path)
    with pytest.raises(ObjectExists):
        await store.adopt("files/a", again)
    path.unlink()

    assert await store.read("files/a") == b"hello world"
    local, begins_at = await store.local_copy("files/a", 2, 7, tmp_path / "copy")
    with local.open("rb") as content:
        content.seek(2 - begins_at)
        assert content.read(5) == b"llo w"
    with pytest.raises(ObjectNotFound):
        await store.local_copy("files/b", 0, 1, tmp_path / "none")


async def test_second_creation_is_refused_and_changes_nothing(store: ObjectStore) -> None:
    await store.create("k/1", b"first")

    with pytest.raises(ObjectExists):
        await store.create("k/1", b"second")
    with pytest.raises(ObjectExists):
        await store.create("k/1", io.BytesIO(b"third"))

    assert await store.read("k/1") == b"first"


async def test_of_many_creators_one_wins(store: ObjectStore) -> None:
    async def create(number: int) -> int | None:
        try:
            await store.create("race", str(number).encode())
        except ObjectExists:
            return None
        return number

    winners = [n for n in await asyncio.gather(*map(create, range(8))) if n is not None]

    assert len(winners) == 1
    assert await store.read("race") == str(winners[0]).encode()


async def test_large_object_from_a_file(store: ObjectStore) -> None:
    content = secrets.token_bytes(3 * CHUNK_BYTES + 17)
    file = io.BytesIO(content)
    file.read(5)  # wherever the file stands, all of it is stored

    await store.create("big", file)

    assert await read_all(store, "big") == content
    assert await store.size("big") == len(content)


async def test_objects_are_joined_in_order_and_create_only(store: ObjectStore) -> None:
    parts = [secrets.token_bytes(size) for size in (CHUNK_BYTES + 3, 0, 1, 2 * CHUNK_BYTES)]
    for number, part in enumerate(parts):
        await store.create(f"part/{number}", part)
    keys = [f"part/{number}" for number in range(len(parts))]

    await store.concatenate("joined", keys)

    assert await read_all(store, "joined") == b"".join(parts)
    with pytest.raises(ObjectExists):
        await store.concatenate("joined", keys[:1])
    with pytest.raises(ObjectNotFound):
        await store.concatenate("other", ["part/0", "part/missing"])
    assert await store.size("other") is None


async def test_empty_object(store: ObjectStore) -> None:
    await store.create("empty", b"")

    assert await store.size("empty") == 0
    assert await read_all(store, "empty") == b""
    with pytest.raises(ObjectExists):
        await store.create("empty", b"x")


async def test_missing_object(store: ObjectStore) -> None:
    assert await store.size("missing") is None
    with pytest.raises(ObjectNotFound):
        await store.read("missing")
    with pytest.raises(ObjectNotFound):
        await read_all(store, "missing")
    await store.delete("missing")


async def test_keys_are_listed_by_prefix_and_sorted(store: ObjectStore) -> None:
    for key in ("spool/a/2", "spool/a/10", "spool/ab/1", "other/a/1"):
        await store.create(key, b"x")

    assert await store.keys("spool/a/") == ["spool/a/10", "spool/a/2"]
    assert await store.keys("spool/") == ["spool/a/10", "spool/a/2", "spool/ab/1"]
    assert await store.keys("nothing/") == []


async def test_deleted_object_is_gone_and_its_key_free(store: ObjectStore) -> None:
    await store.create("d", b"1")

    await store.delete("d")

    assert await store.size("d") is None
    await store.create("d", b"2")
    assert await store.read("d") == b"2"


async def test_probe_accepts_and_leaves_nothing(store: ObjectStore) -> None:
    await probe(store, "probe/x")

    assert await store.keys("probe/") == []


async def test_probe_refuses_a_store_that_overwrites() -> None:
    class Overwriting(MemoryObjectStore):
        async def create(self, key: str, data: object) -> None:
            self.objects[key] = bytes(str(data), "ascii")

    with pytest.raises(SetupError, match="If-None-Match"):
        await probe(Overwriting(), "probe/x")


@pytest.mark.parametrize("key", ["../etc/passwd", "a//b", "/a", "a/../../b", ".tmp/x", "", "a/\0"])
async def test_directory_store_has_no_way_out(tmp_path: Path, key: str) -> None:
    store = await open_store(StoreSettings(url=f"file://{tmp_path / 'store'}"))

    with pytest.raises(ObjectNotFound):
        await store.create(key, b"x")
    await store.close()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (StoreSettings(url="ftp://x"), "expected file:///DIR or s3://BUCKET"),
        (StoreSettings(url="file://relative/x"), "expected file:///DIR"),
        (StoreSettings(url="file:///proc/nothing/here"), "name a writable folder"),
        (StoreSettings(url="s3://b", s3_endpoint="nonsense"), "expected http"),
        (StoreSettings(url="s3://bucket", s3_endpoint="http://127.0.0.1:9", timeout_s=1), "S3_ENDPOINT"),
    ],
)
async def test_wrong_address_is_one_sentence(settings: StoreSettings, text: str) -> None:
    with pytest.raises(SetupError, match=text):
        await open_store(settings)


async def test_wrong_keys_are_one_sentence(tmp_path: Path) -> None:
    settings = settings_for("minio", tmp_path).model_copy(update={"s3_secret_key": SecretStr("wrong-secret")})

    with pytest.raises(SetupError, match="check keys"):
        await open_store(settings)


S3_BUSY = b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"


@contextmanager
def answering(status: int, content_type: str, body: bytes) -> Iterator[str]:
    """The address of a server that says the same to every request, as a load balancer does without its store."""

    class Answer(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    for method in ("GET", "HEAD", "PUT", "DELETE"):
        setattr(Answer, f"do_{method}", Answer.answer)

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "content_type", "body", "expected"),
    [
        (503, "application/xml", S3_BUSY, UnavailableError),
        (503, "application/xml", b"<Error><Code>Slow", UnavailableError),
        (502, "text/html", b"<html>Bad Gateway</html>", UnavailableError),
        (502, "text/html", "Zeitüberschreitung".encode("latin-1"), UnavailableError),
        (500, "application/xml", b"", UnavailableError),
        (429, "text/plain", b"slow down", UnavailableError),
        (403, "application/xml", b"<Error><Code>AccessDenied</Code></Error>", ObjectStoreError),
    ],
)
async def test_what_the_store_or_its_proxy_refuses_is_one_of_our_errors(
    status: int, content_type: str, body: bytes, expected: type[HeadraceError]
) -> None:
    with answering(status, content_type, body) as endpoint:
        keys = {"s3_access_key": SecretStr(ACCESS_KEY), "s3_secret_key": SecretStr(SECRET_KEY)}
        store = S3Store("bucket", StoreSettings(url="s3://bucket", s3_endpoint=endpoint, **keys))
        asked: list[Callable[[], Awaitable[object]]] = [
            lambda: store.create("a", b"x"),
            lambda: store.read("a"),
            lambda: store.size("a"),
            lambda: store.keys("a"),
            lambda: store.delete("a"),
            lambda: store.concatenate("a", ["b"]),
            lambda: read_all(store, "a"),
            store.ask,
        ]
        for ask in asked:
            with pytest.raises(expected):
                await ask()
        with pytest.raises(SetupError):
            await store.open()
        await store.close()


async def test_file_on_another_disk_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_store(settings_for("directory", tmp_path))
    (tmp_path / "a").write_bytes(b"content")
    link, calls = os.link, list[str]()

    def link_within_a_disk(source: Path, target: Path) -> None:
        calls.append(str(source))
        if source == tmp_path / "a":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr("shared.directory_store.os.link", link_within_a_disk)
    await store.adopt("files/a", tmp_path / "a")

    assert (await store.read("files/a"), len(calls)) == (b"content", 2)
    await store.close()
