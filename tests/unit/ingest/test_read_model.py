"""The view: rebuilt for another log, resumed for the same, paged without gap or repeat."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.ingest.read_model import ReadModel
from shared.messages import BatchClosed, BatchCreated, BatchDispatched, Message, StoredFile, WorkerHeartbeat, encode
from shared.settings import KafkaSettings
from shared.topics import Topics, facet_key

TOPICS = Topics(KafkaSettings())


def created(number: int) -> BatchCreated:
    return BatchCreated(
        id=f"batch_{number:04d}",
        endpoint="/v1/embeddings",
        input_file_id="f",
        completion_window="24h",
        created_at=1000 + number // 3,
        expires_at=2000,
    )


class Log:
    """Hands out offsets."""

    def __init__(self) -> None:
        self.offset = -1

    def record(self, topic: str, key: bytes, message: Message | bytes | None) -> Any:
        self.offset += 1
        value = encode(message) if isinstance(message, Message) else message
        return SimpleNamespace(topic=topic, partition=0, offset=self.offset, key=key, value=value)

    def facet(self, batch_id: str, name: str, message: Message | bytes | None) -> Any:
        return self.record(TOPICS.batches.name, facet_key(batch_id, name), message)

    def file(self, file: StoredFile | None, key: str = "") -> Any:
        return self.record(TOPICS.files.name, (file.id if file else key).encode(), file)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "view.sqlite"


def closed(status: str = "completed") -> BatchClosed:
    return BatchClosed(status=status, finalizing_at=1, closed_at=2, total=1, completed=1, failed=0, not_run=0)


def test_view_resumes_for_the_same_log_and_forgets_for_another(path: Path) -> None:
    log = Log()
    view = ReadModel(path, TOPICS, "cluster-1")
    view.apply([log.facet("batch_0001", "created", created(1)), log.facet("batch_0002", "created", created(2))])
    view.apply([log.facet("batch_0002", "closed", closed())])
    view.close()

    again = ReadModel(path, TOPICS, "cluster-1")
    assert again.position(TOPICS.batches.name, 0) == 3
    assert [v.created.id for v in again.open_batches()] == ["batch_0001"]
    assert again.batch("batch_0002").status == "completed"  # type: ignore[union-attr]
    again.close()

    other = ReadModel(path, TOPICS, "cluster-2")
    assert other.position(TOPICS.batches.name, 0) is None
    assert other.batch("batch_0001") is None
    other.close()


def test_facets_may_come_in_any_order(path: Path) -> None:
    log, view = Log(), ReadModel(path, TOPICS, "c")

    view.apply([log.facet("batch_0001", "dispatch", BatchDispatched(in_progress_at=5, total=3, model="m"))])
    assert view.batch("batch_0001") is None
    view.apply([log.facet("batch_0001", "created", created(1))])

    assert view.batch("batch_0001").status == "in_progress"  # type: ignore[union-attr]
    assert len(view.open_batches()) == 1
    view.close()


def test_batches_page_newest_first(path: Path) -> None:
    log, view = Log(), ReadModel(path, TOPICS, "c")
    view.apply([log.facet(f"batch_{n:04d}", "created", created(n)) for n in range(10)])

    seen, after = [], None
    while part := view.list_batches(tenant="default", after=after, limit=3):
        seen += [v.created.id for v in part]
        after = seen[-1]

    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 10
    assert view.list_batches(tenant="other", after=None, limit=3) == []
    view.close()


def test_files_page_both_ways_and_tombstones_forget(path: Path) -> None:
    log, view = Log(), ReadModel(path, TOPICS, "c")
    files = [
        StoredFile(id=f"file-{n}", purpose=p, filename="x", bytes=1, created_at=n, object_key="k")
        for n, p in enumerate(["batch", "user_data", "batch"])
    ]
    view.apply([log.file(file) for file in files])

    def listed(**options: Any) -> list[str]:
        base: dict[str, Any] = {
            "tenant": "default",
            "purpose": None,
            "after": None,
            "limit": 9,
            "descending": True,
            "now_s": 5,
        }
        return [file.id for file in view.list_files(**(base | options))]

    assert listed() == ["file-2", "file-1", "file-0"]
    assert listed(descending=False, after="file-0") == ["file-1", "file-2"]
    assert listed(purpose="batch", after="file-1") == ["file-0"]
    view.apply([log.file(None, "file-1")])
    assert view.file("file-1") is None
    assert listed() == ["file-2", "file-0"]
    view.close()


def test_unreadable_records_are_passed_over(path: Path) -> None:
    log, view = Log(), ReadModel(path, TOPICS, "c")

    view.apply([log.facet("b", "created", b"garbage"), log.facet("b", "closed", None)])

    assert view.position(TOPICS.batches.name, 0) == 2
    view.close()


def test_models_are_alive_while_heartbeats_are_fresh(path: Path) -> None:
    log, view = Log(), ReadModel(path, TOPICS, "c")

    def beat(worker: str, state: str, sent_at_ms: int) -> Any:
        heartbeat = WorkerHeartbeat(
            worker_id=worker,
            models=(f"m-{worker}",),
            endpoints=(),
            engine="echo",
            state=state,
            in_flight=0,
            started_at=0,
            sent_at_ms=sent_at_ms,
        )
        return log.record(TOPICS.workers.name, worker.encode(), heartbeat)

    view.apply([beat("fresh", "ready", 9_500), beat("silent", "ready", 1_000), beat("gone", "stopped", 9_900)])

    assert view.models_alive(now_ms=10_000, silence_s=5) == {"m-fresh": "m-fresh"}
    view.close()


def test_unreadable_file_is_made_anew(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)

    view = ReadModel(path, TOPICS, "c")

    assert view.position(TOPICS.batches.name, 0) is None
    view.close()


def test_touched_batches_are_handed_out_once_in_the_order_of_their_change(path: Path) -> None:
    log = Log()
    view = ReadModel(path, TOPICS, "cluster-1")
    view.apply([log.facet(f"batch_000{n}", "created", created(n)) for n in (2, 1)])
    view.apply([log.facet("batch_0002", "closed", closed())])

    assert view.take_touched() == ["batch_0002", "batch_0001"]
    assert view.take_touched() == []
    assert view.open_batch("batch_0002") is None
    assert (found := view.open_batch("batch_0001")) is not None
    assert found.created.id == "batch_0001"
