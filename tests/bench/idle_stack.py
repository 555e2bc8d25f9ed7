"""How long does a small batch take on a stack that has nothing else to do, and what does the idle stack use?"""

import json
import tempfile
import time
from pathlib import Path

from tests.bench.figure import Figure, median_of
from tests.bench.processes import cpu_seconds, minus
from tests.e2e.stack import Stack, chat_lines, submit_file

ROUNDS, PAUSE_S, POLL_S = 10, 0.3, 0.02
IDLE_S, SETTLE_S = 20.0, 5.0


def seconds_of(stack: Stack, num_lines: int) -> float:
    """From create to `completed` as the SDK sees it."""
    client = stack.client()
    content = "\n".join(json.dumps(line) for line in chat_lines(num_lines, "echo")).encode()
    file_id = client.files.create(file=("input.jsonl", content), purpose="batch").id
    began = time.perf_counter()
    batch = submit_file(client, file_id)
    while batch.status != "completed":
        time.sleep(POLL_S)
        batch = client.batches.retrieve(batch.id)
    seconds = time.perf_counter() - began
    time.sleep(PAUSE_S)
    return seconds


def measure(rounds: int = ROUNDS, idle_s: float = IDLE_S) -> list[Figure]:
    """Batches of 1 and of 100 lines, then nothing at all."""
    with tempfile.TemporaryDirectory() as data, Stack(Path(data), ["--engine", "echo"]) as stack:
        seconds_of(stack, 1)
        one = [seconds_of(stack, 1) for _ in range(rounds)]
        hundred = [seconds_of(stack, 100) for _ in range(rounds)]
        time.sleep(SETTLE_S)
        before = cpu_seconds(stack)
        time.sleep(idle_s)
        percent = {name: 100 * cpu / idle_s for name, cpu in minus(cpu_seconds(stack), before).items()}
    broker = percent.pop("kafka")
    return [
        median_of("a batch of 1 line, idle stack", one, "s", "< 0.5"),
        median_of("a batch of 100 lines, idle stack", hundred, "s", "< 1"),
        Figure("idle stack, our processes together", sum(percent.values()), "% of a core", "< 3", detail=percent),
        Figure("idle broker", broker, "% of a core"),
    ]
