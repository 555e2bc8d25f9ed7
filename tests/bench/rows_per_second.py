"""Rows per second, create → completed, with the echo engine, beside the CPU that each process used per row.

    python -m tests.bench.rows_per_second [ROWS] [BYTES]

Prints one line per process. Machines are noisy: compare runs made side by side only.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e.stack import Stack, chat_line, submit, wait_for_end

ROWS, BYTES, WARM_UP_ROWS = 50_000, 2_000, 2_000
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(stack: Stack) -> dict[str, float]:
    """CPU of each child so far, by name."""
    found = {}
    for path in (stack.data / "run").glob("*.pid"):
        fields = Path(f"/proc/{path.read_text().strip()}/stat").read_text().rpartition(")")[2].split()
        found[path.stem] = (int(fields[11]) + int(fields[12])) / _TICKS
    return found


def main(num_rows: int, num_bytes: int) -> None:
    """Run one warm-up batch and one that counts."""
    with tempfile.TemporaryDirectory() as data, Stack(Path(data), ["--engine", "echo"]) as stack:
        client = stack.client()
        text = "x" * num_bytes
        lines = [chat_line(f"row-{n}", "echo", text) for n in range(num_rows)]
        wait_for_end(client, submit(client, lines[:WARM_UP_ROWS]).id)
        before = cpu_seconds(stack)
        batch = submit(client, lines)
        began = time.monotonic()
        ended = wait_for_end(client, batch.id, timeout_s=600)
        seconds = time.monotonic() - began
        assert ended.request_counts.completed == num_rows
        used = {name: cpu - before[name] for name, cpu in cpu_seconds(stack).items()}
    print(f"{num_rows} rows of {num_bytes} bytes in {seconds:.1f} s: {num_rows / seconds:.0f} rows/s")
    for name, cpu in sorted(used.items()):
        print(f"  {name:14} {1e6 * cpu / num_rows:7.1f} us of CPU per row")
    print(f"  {'sum':14} {1e6 * sum(used.values()) / num_rows:7.1f} us of CPU per row")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    main(*(numbers + [ROWS, BYTES][len(numbers) :]))
