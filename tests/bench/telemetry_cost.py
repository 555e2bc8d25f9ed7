"""What do traces and metrics cost? Two stacks at one broker in turns: one is silent, one tells what it does by default.

The latter counts, serves its pages to a scraper, and traces one line in a hundred, and each batch, to a collector.
"""

import contextlib
import secrets
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2

from tests.bench.echo_rows import input_file, upload
from tests.bench.figure import Figure, median_of
from tests.bench.processes import cpu_seconds, minus
from tests.e2e.stack import Stack, submit_file, wait_for_end
from tests.otlp_sink import serve_otlp_sink
from tests.providers import start_kafka

# Many short rounds: a machine that others use too is fast and slow for seconds at a time.
ROWS, BYTES, ROUNDS = 8_000, 2_000, 40
SCRAPE_INTERVAL_S = 5.0


@contextmanager
def scraped(stack: Stack) -> Iterator[None]:
    """A scraper looks at all pages of the stack while the block runs."""
    over = threading.Event()
    pages = list(stack.stack_file()["metrics"].values())

    def scrape() -> None:
        with httpx2.Client() as client:  # one for all, as a scraper has: making one costs as much as many pages
            while not over.wait(SCRAPE_INTERVAL_S):
                for page in pages:
                    client.get(page).raise_for_status()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Cost(NamedTuple):
    """Rows a second from create to completed, and CPU of our own processes in microseconds a row."""

    rows_per_second: float
    cpu_us: float


def _round(stack: Stack, file_id: str, rows: int) -> Cost:
    client, start, began = stack.client(), cpu_seconds(stack), time.monotonic()
    wait_for_end(client, submit_file(client, file_id).id, timeout_s=900)
    seconds = time.monotonic() - began
    used = minus(cpu_seconds(stack), start)
    return Cost(rows / seconds, 1e6 * sum(cpu for name, cpu in used.items() if name != "kafka") / rows)


def measure(rows: int = ROWS, size: int = BYTES, rounds: int = ROUNDS) -> list[Figure]:
    """The ratio of the two, and what a row costs more."""
    content, prefix = input_file(rows, size), f"quiet-{secrets.token_hex(3)}."
    quiet_env = {"HEADRACE_TELEMETRY__METRICS": "false", "HEADRACE_KAFKA__TOPIC_PREFIX": prefix}
    pairs: list[tuple[Cost, Cost]] = []
    broker = start_kafka()  # of neither of them
    with contextlib.ExitStack() as running:
        sink = running.enter_context(serve_otlp_sink())
        folders = [Path(running.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)]
        arguments = ["--engine", "echo", "--kafka", broker.address]
        loud = running.enter_context(Stack(folders[0], [*arguments, "--otlp", sink.address]))
        quiet = running.enter_context(Stack(folders[1], arguments, quiet_env))
        files = {id(stack): upload(stack.client(), content) for stack in (loud, quiet)}
        for number in range(rounds + 1):
            in_turn = (loud, quiet) if number % 2 else (quiet, loud)
            with scraped(loud):
                found = {id(stack): _round(stack, files[id(stack)], rows) for stack in in_turn}
            if number:  # in the first one the broker's compiler warms up
                pairs.append((found[id(loud)], found[id(quiet)]))
        num_spans = len(sink.spans)
    broker.stop()
    assert num_spans > rows // 100, "nothing was traced"
    return _figures(pairs, 1000 * num_spans / (rows * (rounds + 1)))


def _figures(pairs: list[tuple[Cost, Cost]], spans_of_thousand: float) -> list[Figure]:
    """Of the quick rounds of each, because what else the machine does only ever makes a round slower."""
    rates = [_quick(pair[stack].rows_per_second for pair in pairs) for stack in (0, 1)]
    cpu = [-_quick(-pair[stack].cpu_us for pair in pairs) for stack in (0, 1)]
    return [
        Figure("rows/s with traces and metrics ÷ without", rates[0] / rates[1], "", "≥ 0.97"),
        Figure("CPU a row that they cost", cpu[0] - cpu[1], "us/row"),
        median_of("the ratio in each round", [a.rows_per_second / b.rows_per_second for a, b in pairs]),
        Figure("spans of a thousand rows", spans_of_thousand, "spans"),
    ]


def _quick(values: Iterable[float]) -> float:
    """The value that a quarter of them reaches."""
    ordered = sorted(values)
    return ordered[len(ordered) * 3 // 4]
