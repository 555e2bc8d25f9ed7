"""Does memory grow with the batch? Resident memory of every process over 50,000 and over 1,000,000 lines."""

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.bench.api_cost import create
from tests.bench.figure import Figure
from tests.bench.processes import Usage, resident_mb
from tests.e2e.stack import Stack, chat_line, wait_for_end

SMALL, LARGE = 50_000, 1_000_000
SAMPLE_S = 0.5
ENV = {
    "HEADRACE_INGEST__BATCH_LINES_MAX": str(LARGE),
    "HEADRACE_INGEST__FILE_BYTES_MAX": str(4 * 1024**3),
    "HEADRACE_INGEST__BATCH_FILE_BYTES_MAX": str(4 * 1024**3),
}


@contextmanager
def highest_memory(stack: Stack) -> Iterator[Usage]:
    """Fills in the highest resident memory of each process while the block runs, in MB."""
    highest: Usage = {}
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            for name, used in resident_mb(stack).items():
                highest[name] = max(used, highest.get(name, 0.0))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield highest
    finally:
        done.set()
        thread.join()


def run(stack: Stack, folder: Path, rows: int) -> tuple[Usage, float]:
    """Highest memory over upload and batch, and rows a second."""
    path = folder / f"{rows}.jsonl"
    with path.open("w") as out:
        for number in range(rows):
            out.write(json.dumps(chat_line(f"row-{number}", "echo", f"{number} " + "x" * 100)) + "\n")
    with httpx2.Client(base_url=stack.url, timeout=900) as http, highest_memory(stack) as highest:
        with path.open("rb") as content:
            form = {"purpose": "batch"}
            file = http.post("/files", files={"file": ("in.jsonl", content)}, data=form).raise_for_status().json()
        began = time.monotonic()
        batch = wait_for_end(stack.client(), create(http, file["id"]), timeout_s=1_800)
        seconds = time.monotonic() - began
    path.unlink()
    assert batch.request_counts.completed == rows, batch
    return highest, rows / seconds


def measure(large: int = LARGE) -> list[Figure]:
    """How much more each process needs for the large batch."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        with Stack(data, ["--engine", "echo"], ENV) as stack:
            small, _ = run(stack, Path(folder), SMALL)
            highest, rate = run(stack, Path(folder), large)
    return [
        Figure(f"{large:,} lines", rate, "rows/s"),
        *(
            Figure(
                f"  {name}: memory beyond 50,000 lines",
                highest[name] - small[name],
                "MB",
                "" if name == "kafka" else "< 100",  # a heap of a fixed size, which fills
                detail={"highest": highest[name]},
            )
            for name in sorted(highest)
        ),
    ]
