"""What do the API's calls cost? `python -m tests.bench.api_cost [--kafka jvm|memory]`

Three figures, each beside its target: a 200 MB file of 50,000 lines from the first byte of its upload to its first
record on the log, with the memory that ingest grew by; a batch read while batches run; a page of 100 out of 10,000.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from tests.bench.figure import Figure
from tests.e2e.stack import Stack, chat_line, chat_lines

LINES, FILE_MB = 50_000, 200
NUM_BATCHES, NUM_READS, NUM_PAGES = 10_000, 1_000, 50
CREATORS = 8
READ_PAUSE_S = 0.005
ENGINE = {"HEADRACE_INFERENCE__ECHO__LATENCY_PER_TOKEN_S": "0.001"}
# Words in a line, each a millisecond: as many lines a second as the machine can, and a thousand or so.
BUSY_WORDS, CALM_WORDS = 1, 200


def resident_mb(stack: Stack) -> float:
    """Resident memory of ingest, with its highest value since the start behind it."""
    for line in Path(f"/proc/{stack.pid('ingest-0')}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1e3
    raise AssertionError("no VmHWM")


def large_file(path: Path) -> None:
    """50,000 lines, 200 MB."""
    padding = "x" * (FILE_MB * 1_000_000 // LINES - 160)
    with path.open("w") as out:
        for number in range(LINES):
            body = {"model": "echo", "messages": [{"role": "user", "content": f"{number} {padding}"}]}
            line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            out.write(json.dumps(line) + "\n")


def first_record(stack: Stack, http: httpx2.Client, path: Path) -> dict[str, float]:
    """Seconds of the upload, and until the first line is dispatched."""
    before, began = resident_mb(stack), time.perf_counter()
    with path.open("rb") as content:
        file = http.post("/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"}, timeout=120).json()
    uploaded = time.perf_counter()
    batch = create(http, file["id"])
    while not http.get(f"/batches/{batch}").json()["x_headrace"]["dispatched"]:
        time.sleep(0.02)
    done = time.perf_counter()
    http.post(f"/batches/{batch}/cancel")
    return {
        "upload_s": round(uploaded - began, 2),
        "first_record_s": round(done - began, 2),
        "memory_growth_mb": round(resident_mb(stack) - before),
    }


def measure_upload() -> list[Figure]:
    """50,000 lines, 200 MB: uploaded, validated, and the first of them on the log."""
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder) / "large.jsonl", Path(folder) / "data"
        large_file(path)
        data.mkdir()
        with (
            Stack(data, ["--engine", "echo"], ENGINE) as stack,
            httpx2.Client(base_url=stack.url, timeout=60) as http,
        ):
            found = first_record(stack, http, path)
    return [
        Figure("200 MB file → its first record", found["first_record_s"], "s", "< 5", detail=found),
        Figure("  memory that ingest grew by", found["memory_growth_mb"], "MB", "< 150"),
    ]


def create(http: httpx2.Client, file_id: str) -> str:
    """A batch of a file."""
    wanted = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return str(http.post("/batches", json=wanted).json()["id"])


def upload(http: httpx2.Client, lines: list[dict[str, Any]]) -> str:
    """A small file."""
    content = "\n".join(json.dumps(line) for line in lines)
    answer = http.post("/files", files={"file": ("in.jsonl", content.encode())}, data={"purpose": "batch"})
    return str(answer.json()["id"])


def milliseconds(call: Callable[[], object], number: int, pause_s: float = 0.0) -> dict[str, float]:
    """Percentiles of a call."""
    spent = []
    for _ in range(number):
        time.sleep(pause_s)
        began = time.perf_counter()
        call()
        spent.append((time.perf_counter() - began) * 1e3)
    cuts = statistics.quantiles(spent, n=100)
    return {"p50_ms": round(cuts[49], 1), "p95_ms": round(cuts[94], 1), "p99_ms": round(cuts[98], 1)}


def read_while_running(http: httpx2.Client, words: int) -> dict[str, float]:
    """Retrieve a batch that runs; a line with many words takes the engine longer."""
    lines = [chat_line(str(number), "echo", "word " * words) for number in range(40_000)]
    batch = create(http, upload(http, lines))
    while not (seen := http.get(f"/batches/{batch}").json())["request_counts"]["completed"]:
        time.sleep(0.05)
    began, done = time.perf_counter(), seen["request_counts"]["completed"]
    found = milliseconds(lambda: http.get(f"/batches/{batch}"), NUM_READS, READ_PAUSE_S)
    last = http.get(f"/batches/{batch}").json()
    found["still_running"] = last["status"] in ("in_progress", "finalizing")
    found["lines_per_second"] = round((last["request_counts"]["completed"] - done) / (time.perf_counter() - began))
    http.post(f"/batches/{batch}/cancel")
    while http.get(f"/batches/{batch}").json()["status"] == "cancelling":
        time.sleep(0.05)
    return found


def many_batches(url: str, http: httpx2.Client) -> None:
    """10,000 batches of one line each."""
    file_id = upload(http, chat_lines(1, "echo"))
    todo = iter(range(NUM_BATCHES))

    def work() -> None:
        with httpx2.Client(base_url=url, timeout=60) as own:
            for _ in todo:
                create(own, file_id)

    threads = [threading.Thread(target=work) for _ in range(CREATORS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> int:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.api_cost", description=__doc__)
    parser.add_argument("--kafka", choices=("jvm", "memory"), default="jvm")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.jsonl"
        large_file(path)
        data = Path(folder) / "data"
        data.mkdir()
        with (
            Stack(data, ["--engine", "echo", "--kafka", arguments.kafka], ENGINE) as stack,
            httpx2.Client(base_url=stack.url, timeout=60) as http,
        ):
            figures: dict[str, Any] = {"first_record (target 5 s, 150 MB)": first_record(stack, http, path)}
            figures["get_batch (target p99 20 ms)"] = read_while_running(http, CALM_WORDS)
            figures["get_batch on a machine that is full"] = read_while_running(http, BUSY_WORDS)
            many_batches(stack.url, http)
            figures["page of 100 of 10,000 (target 50 ms)"] = milliseconds(
                lambda: http.get("/batches?limit=100"), NUM_PAGES
            )
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
