"""A file that crashes the validator fails its batch; what may pass by itself is tried again."""

from typing import Any

import pytest

from services.ingest.validation import Validation
from shared.messages import BatchCreated, StoredFile
from shared.object_store import file_key
from tests.fakes import MemoryObjectStore

FILE = StoredFile(id="f", purpose="batch", filename="f", bytes=1, created_at=1, object_key=file_key("f"))
CREATED = BatchCreated(
    id="b", endpoint="e", input_file_id="f", completion_window="24h", created_at=1, expires_at=9, input_file=FILE
)


def validation(error: Exception) -> Validation:
    """One whose validator raises."""

    class Checks:
        def input_file(self, *_: object) -> Any:
            return self

        def check(self, _line: object) -> None:
            raise error

    store, checks = MemoryObjectStore(), Checks()
    store.objects[file_key("f")] = b"{}"
    ports: dict[str, Any] = dict.fromkeys(("topics", "publisher", "feed", "telemetry"), Any)
    return Validation(checks=checks, concurrency=1, store=store, **ports)  # type: ignore[arg-type]


async def test_crash_in_validation_fails_the_batch() -> None:
    facet = await validation(UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"))._judge(CREATED)

    assert facet.failed_at is not None
    assert [problem.code for problem in facet.errors] == ["server_error"]


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError()])
async def test_machine_without_room_is_no_fault_of_the_file(error: Exception) -> None:
    with pytest.raises(type(error)):
        await validation(error)._judge(CREATED)
