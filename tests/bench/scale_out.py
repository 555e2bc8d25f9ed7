"""Do N workers do N times as much? Workers with a fixed window whose engine takes 200 ms for every line."""

import tempfile
import time
from pathlib import Path

from tests.bench.echo_rows import input_file, upload
from tests.bench.figure import Figure, median_of
from tests.e2e.stack import Stack, submit_file, wait_for_end

LATENCY_S, WINDOW = 0.2, 64
SECONDS, WORKERS, ROUNDS = 10, (1, 2, 4), 3
ENV = {
    "HEADRACE_INFERENCE__ECHO__LATENCY_S": str(LATENCY_S),
    "HEADRACE_INFERENCE__ECHO__SLOTS": str(WINDOW),
    "HEADRACE_INFERENCE__WINDOW": str(WINDOW),
}


def rows_per_second(num_workers: int, seconds: int) -> list[float]:
    """Create → completed of batches that should take so long."""
    rows = int(WINDOW / LATENCY_S * num_workers * seconds)
    content = input_file(rows, 500)
    arguments = ["--engine", "echo", "--workers", str(num_workers)]
    with tempfile.TemporaryDirectory() as data, Stack(Path(data), arguments, ENV) as stack:
        client = stack.client()
        file_id = upload(client, content)
        wait_for_end(client, submit_file(client, upload(client, input_file(500, 500))).id)
        found = []
        for _ in range(ROUNDS):
            began = time.monotonic()
            wait_for_end(client, submit_file(client, file_id).id, timeout_s=300)
            found.append(rows / (time.monotonic() - began))
    return found


def measure(seconds: int = SECONDS) -> list[Figure]:
    """Throughput of 2 and of 4 workers as a multiple of that of one."""
    found = {num: rows_per_second(num, seconds) for num in WORKERS}
    one = sorted(found[1])[len(found[1]) // 2]
    figures = [median_of("1 worker, 200 ms, 64 at once (ideal 320)", found[1], "rows/s")]
    for num in WORKERS[1:]:
        multiples = [rate / one for rate in found[num]]
        figures.append(median_of(f"{num} workers ÷ 1 worker", multiples, "", f"≥ {0.95 * num:g}"))
    return figures
