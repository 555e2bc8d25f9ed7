"""What do traces and metrics cost? Pairs of stacks at one broker, in turns: one is silent, one tells what it does.

The latter counts, serves its pages to a scraper, and traces one line in a hundred, and each batch, to a collector.
Two rounds of the same stack differ by an eighth, because of what else the machine does, so there are many short ones.
"""

import contextlib
import secrets
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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

ROWS, BYTES, PAIRS, ROUNDS = 16_000, 2_000, 32, 4
# Whoever asks for a batch all the time measures what it costs to answer, so nobody asks for the first part of the time
# that it took before; before the first round, that of a stack faster than any machine of ours had.
QUIET_SHARE, ROWS_PER_SECOND_MAX = 0.85, 10_000
# As deploy/prometheus asks for.
SCRAPE_INTERVAL_S = 15.0


@contextmanager
def scraped(stack: Stack) -> Iterator[None]:
    """A scraper looks at all pages of the stack while the block runs."""
    over = threading.Event()
    pages = list(stack.stack_file()["metrics"].values())

    def scrape() -> None:
        with httpx2.Client() as client:  # one for all, as a scraper has: making one costs as much as many pages
            while True:  # the first page of a process is its dearest, and comes in the round that does not count
                for page in pages:
                    client.get(page).raise_for_status()
                if over.wait(SCRAPE_INTERVAL_S):
                    break

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


def _round(stack: Stack, file_id: str, rows: int, expected_s: float) -> Cost:
    client, start, began = stack.client(), cpu_seconds(stack), time.monotonic()
    batch = submit_file(client, file_id)
    time.sleep(QUIET_SHARE * expected_s)
    wait_for_end(client, batch.id, timeout_s=900)
    seconds = time.monotonic() - began
    used = minus(cpu_seconds(stack), start)
    return Cost(rows / seconds, 1e6 * sum(cpu for name, cpu in used.items() if name != "kafka") / rows)


class Pair(NamedTuple):
    """What the one that tells and the silent one took, in all their rounds; and its spans of a row."""

    loud: Cost
    quiet: Cost
    spans: float


def measure(rows: int = ROWS, size: int = BYTES, pairs: int = PAIRS, rounds: int = ROUNDS) -> list[Figure]:
    """The ratio of the two, and what a row costs more."""
    content, found = input_file(rows, size), list[Pair]()
    broker = start_kafka()  # of none of them
    for number in range(pairs + 1):
        pair = _measure_pair(broker.address, content, rows, rounds, is_quiet_first=number % 2 == 0)
        if number:  # in the first one the broker's compiler warms up
            found.append(pair)
    broker.stop()
    assert all(pair.spans > 0.01 for pair in found), "nothing was traced"
    ratios = [pair.loud.rows_per_second / pair.quiet.rows_per_second for pair in found]
    costs = [pair.loud.cpu_us - pair.quiet.cpu_us for pair in found]
    ratio = statistics.geometric_mean(ratios)  # twice as fast and half as fast are as fast, on average
    return [
        Figure("rows/s with traces and metrics ÷ without", ratio, "", "≥ 0.97", tuple(ratios)),
        Figure("standard error of it", _standard_error(ratios)),
        Figure("CPU a row that they cost", statistics.fmean(costs), "us/row", rounds=tuple(costs)),
        Figure("standard error of it", _standard_error(costs), "us/row"),
        median_of("CPU a row without", [pair.quiet.cpu_us for pair in found], "us/row"),
        median_of("spans of a thousand rows", [1000 * pair.spans for pair in found], "spans"),
    ]


def _measure_pair(broker: str, content: bytes, rows: int, rounds: int, *, is_quiet_first: bool) -> Pair:
    arguments = ["--engine", "echo", "--kafka", broker]
    with contextlib.ExitStack() as running:
        sink = running.enter_context(serve_otlp_sink())

        def stack(is_quiet: bool) -> Stack:
            env = {"HEADRACE_KAFKA__TOPIC_PREFIX": f"bench-{secrets.token_hex(3)}."}
            if is_quiet:
                env["HEADRACE_TELEMETRY__METRICS"] = "false"
            otlp = [] if is_quiet else ["--otlp", sink.address]
            folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
            return Stack(folder, [*arguments, *otlp], env)

        stacks = {is_quiet: stack(is_quiet) for is_quiet in (is_quiet_first, not is_quiet_first)}
        running.enter_context(_side_by_side(list(stacks.values())))
        files = {is_quiet: upload(stack.client(), content) for is_quiet, stack in stacks.items()}
        costs: dict[bool, list[Cost]] = {True: [], False: []}
        expected_s = rows / ROWS_PER_SECOND_MAX
        with scraped(stacks[False]):
            for number in range(rounds + 1):
                for is_quiet in (True, False) if number % 2 else (False, True):
                    costs[is_quiet].append(_round(stacks[is_quiet], files[is_quiet], rows, expected_s))
                expected_s = min(rows / cost.rows_per_second for cost in (costs[True][-1], costs[False][-1]))
        num_spans = len(sink.spans)
    # The first one finds everything cold.
    return Pair(_mean(costs[False][1:]), _mean(costs[True][1:]), num_spans / (rows * (rounds + 1)))


def _mean(costs: Sequence[Cost]) -> Cost:
    """Over rounds of as many rows."""
    return Cost(
        statistics.harmonic_mean([cost.rows_per_second for cost in costs]),
        statistics.fmean([cost.cpu_us for cost in costs]),
    )


def _standard_error(values: Sequence[float]) -> float:
    """What another run may differ by."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


@contextmanager
def _side_by_side(stacks: Sequence[Stack]) -> Iterator[None]:
    """Stacks that start and stop together, which takes half the time."""
    with ThreadPoolExecutor(len(stacks)) as pool:
        try:
            list(pool.map(Stack.start, stacks))
            yield
        finally:
            list(pool.map(Stack.stop, stacks))
