"""A file that crashes the validator fails its batch; what may pass by itself is tried again."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from services.ingest.dispatcher import LOOK_AT_ALL_S, Dispatcher
from services.ingest.settings import IngestBlock
from shared.batch_state import BatchView
from shared.messages import BatchCreated, StoredFile
from shared.object_store import file_key
from tests.fakes import MemoryObjectStore

FILE = StoredFile(id="f", purpose="batch", filename="f", bytes=1, created_at=1, object_key=file_key("f"))
CREATED = BatchCreated(
    id="b", endpoint="e", input_file_id="f", completion_window="24h", created_at=1, expires_at=9, input_file=FILE
)


def dispatcher(error: Exception, **given: Any) -> Dispatcher:
    """One whose validator raises."""

    class Checks:
        def input_file(self, *_: object) -> Any:
            return self

        def check(self, _line: object) -> None:
            raise error

    store, nothing, checks = MemoryObjectStore(), Any, Checks()
    store.objects[file_key("f")] = b"{}"
    ports: dict[str, Any] = dict.fromkeys(
        ("topics", "view", "feed", "ownership", "claims", "publisher", "queues", "telemetry"), nothing
    )
    return Dispatcher(settings=IngestBlock(), checks=checks, store=store, **ports | given)  # type: ignore[arg-type]


async def test_crash_in_validation_fails_the_batch() -> None:
    facet = await dispatcher(UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"))._judge(CREATED)

    assert facet.failed_at is not None
    assert [problem.code for problem in facet.errors] == ["server_error"]


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError()])
async def test_machine_without_room_is_no_fault_of_the_file(error: Exception) -> None:
    with pytest.raises(type(error)):
        await dispatcher(error)._judge(CREATED)


class View:
    """Three open batches; only what it says was touched."""

    def __init__(self) -> None:
        self.views = {name: BatchView(created=msgspec.structs.replace(CREATED, id=name)) for name in "abc"}
        self.touched: list[str] = []

    def open_batches(self) -> list[BatchView]:
        return list(self.views.values())

    def open_batch(self, batch_id: str) -> BatchView | None:
        return self.views.get(batch_id)

    def take_touched(self) -> list[str]:
        touched, self.touched = self.touched, []
        return touched


def test_between_looks_at_all_only_what_changed_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    now, owned, view = [100.0], {"a", "b", "c"}, View()
    monkeypatch.setattr("services.ingest.dispatcher.time.monotonic", lambda: now[0])
    tested = dispatcher(OSError(), view=view, ownership=SimpleNamespace(owns=lambda batch_id: batch_id in owned))

    def looked_at() -> str:
        return "".join(found.created.id for found in tested._to_look_at())

    assert (looked_at(), looked_at()) == ("abc", "")
    view.touched = ["c", "gone", "c", "b"]
    owned.remove("b")
    assert (looked_at(), looked_at()) == ("c", "")
    now[0] += LOOK_AT_ALL_S
    assert looked_at() == "ac"
