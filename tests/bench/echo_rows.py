"""What does a row cost when the engine costs nothing? Headrace beside the bare loop, in turns, hop by hop."""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI

from tests.bench import raw_loop
from tests.bench.figure import Figure, median_of
from tests.bench.processes import Usage, cpu_seconds, file_bytes, minus
from tests.e2e.stack import Stack, chat_line, submit_file, wait_for_end

ROWS, BYTES, ROUNDS = 50_000, 2_000, 3


@dataclass(frozen=True, slots=True)
class Round:
    """One batch: seconds from create to completed, and CPU by hop in microseconds a row."""

    seconds: float
    closing_s: float
    hops: Usage


def input_file(num_rows: int, num_bytes: int) -> bytes:
    """A JSONL file for the echo engine."""
    text = "x" * num_bytes
    return "\n".join(json.dumps(chat_line(f"row-{n}", "echo", text)) for n in range(num_rows)).encode()


def upload(client: OpenAI, content: bytes) -> str:
    """The file's id."""
    return client.files.create(file=("input.jsonl", content), purpose="batch").id


def run_batch(stack: Stack, content: bytes, num_rows: int) -> Round:
    """One batch of the file, from its upload on."""
    client = stack.client()
    start = cpu_seconds(stack)
    file_id = upload(client, content)
    uploaded = cpu_seconds(stack)
    began = time.monotonic()
    batch = submit_file(client, file_id)
    validated = uploaded
    while (batch := client.batches.retrieve(batch.id)).status == "validating":
        time.sleep(0.02)
        validated = cpu_seconds(stack)
    answered = _wait_until_answered(client, batch.id, num_rows)
    wait_for_end(client, batch.id, timeout_s=900)
    ended = time.monotonic()
    used = minus(cpu_seconds(stack), uploaded)
    validating = validated["ingest-0"] - uploaded["ingest-0"]
    hops = {
        "ingest: upload": uploaded["ingest-0"] - start["ingest-0"],
        "ingest: validation": validating,
        "ingest: dispatch": used["ingest-0"] - validating,
        "broker": used["kafka"],
        "worker": _sum_of(used, "inference"),
        "collector": _sum_of(used, "collector"),
    }
    return Round(ended - began, ended - answered, {hop: 1e6 * cpu / num_rows for hop, cpu in hops.items()})


def _wait_until_answered(client: OpenAI, batch_id: str, num_rows: int) -> float:
    """When the last line's completion was first seen to be durable."""
    while True:
        counts = client.batches.retrieve(batch_id).request_counts
        assert counts is not None
        if counts.completed + counts.failed >= num_rows:
            return time.monotonic()
        time.sleep(0.05)


def _sum_of(used: Usage, name: str) -> float:
    return sum(cpu for process, cpu in used.items() if process.startswith(name))


def measure(rows: int = ROWS, size: int = BYTES, rounds: int = ROUNDS) -> list[Figure]:
    """Rows a second, the ratio to the bare loop of the same round, CPU and bytes by hop."""
    content = input_file(rows, size)
    raw: list[raw_loop.RawLoop] = []
    ours: list[Round] = []
    with tempfile.TemporaryDirectory() as data, Stack(Path(data), ["--engine", "echo"]) as stack:
        bootstrap = str(stack.stack_file()["kafka"])
        run_batch(stack, content, rows)  # the broker's compiler has seen it all then
        before = file_bytes(stack)
        for _ in range(rounds):
            ours.append(run_batch(stack, content, rows))
            raw.append(raw_loop.run(bootstrap, rows, size + 200))
        disk = _bytes_a_row(before, file_bytes(stack), rows * rounds)
    return _figures(rows, raw, ours, disk)


def _bytes_a_row(
    before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]], rows: int
) -> dict[str, tuple[float, ...]]:
    """Bytes read from and written to files by each process, a row."""
    ours = {name: after[name] for name in after if name != "kafka"}  # the broker served the bare loop too
    return {
        name: tuple((now - then) / rows for now, then in zip(ours[name], before[name], strict=True)) for name in ours
    }


def _figures(
    rows: int, raw: list[raw_loop.RawLoop], ours: list[Round], disk: dict[str, tuple[float, ...]]
) -> list[Figure]:
    hops = {hop: [r.hops[hop] for r in ours] for hop in ours[0].hops}
    # From create to completed: the upload is not part of it.
    sums = [sum(cpu for hop, cpu in r.hops.items() if hop != "ingest: upload") / 1000 for r in ours]
    pairs: list[Any] = list(zip(ours, raw, strict=True))
    return [
        median_of(f"echo: {rows:,} rows of 2 KB", [rows / r.seconds for r in ours], "rows/s", "≥ 6,000"),
        median_of(
            "echo ÷ bare loop of the same client", [rows / o.seconds / r.rows_per_second for o, r in pairs], "", "≥ 0.4"
        ),
        median_of("bare loop", [r.rows_per_second for r in raw], "rows/s"),
        median_of("CPU a row, all processes and the broker", sums, "ms", "≤ 0.25"),
        *(median_of(f"  {hop}", values, "us/row") for hop, values in hops.items()),
        *(
            Figure(f"  {name}: read from files, written to files", sum(both), "B/row", rounds=both)
            for name, both in disk.items()
        ),
        median_of("last line seen durable → completed", [r.closing_s for r in ours], "s", "< 2"),
    ]
