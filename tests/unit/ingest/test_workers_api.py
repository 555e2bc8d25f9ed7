"""Workers on the wire: what a heartbeat says, and what its absence does."""

from typing import Any

import pytest

from services.ingest.api.workers import worker_object
from services.ingest.batch_extension import without_workers
from shared.batch_state import BatchView
from shared.messages import BatchClosed, BatchCreated, BatchDispatched, WorkerHeartbeat

NOW_MS = 1_800_000_000_000


def beat(state: str = "ready", age_s: float = 0.0) -> WorkerHeartbeat:
    return WorkerHeartbeat(
        worker_id="w",
        models=("m", "adapter"),
        endpoints=("/v1/completions",),
        engine="vllm",
        state=state,
        in_flight=3,
        started_at=1,
        sent_at_ms=NOW_MS - int(age_s * 1000),
        version="1.0",
    )


@pytest.mark.parametrize(
    ("state", "age_s", "shown", "alive"),
    [
        ("ready", 1, "ready", True),
        ("ready", 10, "silent", False),
        ("joining", 1, "joining", False),
        ("stopped", 1, "stopped", False),
        ("stopped", 100, "stopped", False),
    ],
)
def test_worker_is_alive_while_it_says_so(state: str, age_s: float, shown: str, alive: bool) -> None:
    found = worker_object(beat(state, age_s), NOW_MS, 10.0)
    assert (found["state"], found["alive"]) == (shown, alive)
    assert (found["id"], found["models"], found["version"]) == ("w", ["m", "adapter"], "1.0")


def test_open_batch_names_the_models_that_nobody_serves() -> None:
    base: dict[str, Any] = {"endpoint": "e", "input_file_id": "f", "completion_window": "24h", "created_at": 0}
    created = BatchCreated(id="b", expires_at=9, **base)
    running = BatchView(created, dispatch=BatchDispatched(in_progress_at=1, total=2, pools=("m", "n")))

    assert without_workers(running, {"m": "m"}) == ["n"]
    assert without_workers(running, ("m", "n")) == []
    assert without_workers(BatchView(created), ()) == []
    closed = BatchClosed(status="completed", finalizing_at=1, closed_at=1, total=2, completed=2, failed=0, not_run=0)
    assert without_workers(BatchView(created, dispatch=running.dispatch, closed=closed), ()) == []
