"""Which batches are looked at, when thousands are open and few of them move."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from services.ingest.dispatcher import LOOK_AT_ALL_S, Dispatcher
from services.ingest.settings import IngestBlock
from shared.batch_state import BatchView
from shared.messages import BatchCreated

CREATED = BatchCreated(id="b", endpoint="e", input_file_id="f", completion_window="24h", created_at=1, expires_at=9)
PORTS = (
    "topics",
    "feed",
    "store",
    "claims",
    "publisher",
    "queues",
    "pools",
    "validation",
    "sealing",
    "telemetry",
)


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
    ports: dict[str, Any] = dict.fromkeys(PORTS, Any)
    ownership: Any = SimpleNamespace(owns=lambda batch_id: batch_id in owned)
    tested = Dispatcher(settings=IngestBlock(), view=view, ownership=ownership, **ports)  # type: ignore[arg-type]

    def looked_at() -> str:
        return "".join(found.created.id for found in tested._to_look_at())

    assert (looked_at(), looked_at()) == ("abc", "")
    view.touched = ["c", "gone", "c", "b"]
    owned.remove("b")
    assert (looked_at(), looked_at()) == ("c", "")
    now[0] += LOOK_AT_ALL_S
    assert looked_at() == "ac"
