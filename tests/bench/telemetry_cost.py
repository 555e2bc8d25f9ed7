"""What do traces and metrics cost? Pairs of stacks at one broker, at once: one is silent, one tells what it does.

The latter counts, serves its pages to a scraper, and traces one line in a hundred, and each batch, to a collector.
Both work on the same rows at the same time, and what is compared is the CPU that a row takes, which is what bounds the
rows of a second when all cores are busy, as here: that of the stack's processes, and of the broker, which serves both
and counts in both alike. In turns, two rounds of one stack differ by an eighth because of what else the machine does.
Stacks that are set up alike differ by some hundredths as long as they live, so there are many pairs.
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
from tests.bench.processes import cpu_of_family, cpu_seconds, minus
from tests.e2e.stack import Stack, submit_file, wait_for_end
from tests.otlp_sink import serve_otlp_sink
from tests.providers import Server, start_kafka

ROWS, BYTES, PAIRS, ROUNDS = 16_000, 2_000, 24, 3
# Whoever asks for a batch all the time measures what it costs to answer, so nobody asks for the first part of the time
# that both took before; before the first round, that of stacks faster than any machine of ours had.
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


class Pair(NamedTuple):
    """CPU in microseconds a row: own processes of the one that tells, of the silent one, the broker; spans of a row."""

    loud_us: float
    quiet_us: float
    broker_us: float
    spans: float

    @property
    def ratio(self) -> float:
        """Rows of a CPU second with traces and metrics ÷ without."""
        return (self.quiet_us + self.broker_us) / (self.loud_us + self.broker_us)


def measure(rows: int = ROWS, size: int = BYTES, pairs: int = PAIRS, rounds: int = ROUNDS) -> list[Figure]:
    """The ratio of the two, and what a row costs more."""
    content, found = input_file(rows, size), list[Pair]()
    broker = start_kafka()  # of none of them
    for number in range(pairs + 1):
        pair = _measure_pair(broker, content, rows, rounds, is_quiet_first=number % 2 == 0)
        if number:  # in the first one the broker's compiler warms up
            found.append(pair)
    broker.stop()
    assert all(pair.spans > 0.01 for pair in found), "nothing was traced"
    ratios, own = [pair.ratio for pair in found], [pair.quiet_us / pair.loud_us for pair in found]
    costs = [pair.loud_us - pair.quiet_us for pair in found]
    ratio = statistics.geometric_mean(ratios)  # twice as fast and half as fast are as fast, on average
    return [
        Figure("rows a CPU second with traces and metrics ÷ without", ratio, "", "≥ 0.97", tuple(ratios)),
        Figure("standard error of it", _standard_error(ratios)),
        Figure("the same without the broker", statistics.geometric_mean(own), rounds=tuple(own)),
        Figure("standard error of it", _standard_error(own)),
        Figure("CPU a row that they cost", statistics.fmean(costs), "us/row", rounds=tuple(costs)),
        Figure("standard error of it", _standard_error(costs), "us/row"),
        median_of("CPU a row without", [pair.quiet_us for pair in found], "us/row"),
        median_of("CPU a row of the broker", [pair.broker_us for pair in found], "us/row"),
        median_of("spans of a thousand rows", [1000 * pair.spans for pair in found], "spans"),
    ]


def _measure_pair(broker: Server, content: bytes, rows: int, rounds: int, *, is_quiet_first: bool) -> Pair:
    arguments = ["--engine", "echo", "--kafka", broker.address]
    with contextlib.ExitStack() as running:
        sink = running.enter_context(serve_otlp_sink())

        def stack(is_quiet: bool) -> Stack:
            env = {"HEADRACE_KAFKA__TOPIC_PREFIX": f"bench-{secrets.token_hex(3)}."}
            if is_quiet:
                env["HEADRACE_TELEMETRY__METRICS"] = "false"
            otlp = [] if is_quiet else ["--otlp", sink.address]
            folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
            return Stack(folder, [*arguments, *otlp], env)

        stacks, loud = [stack(is_quiet) for is_quiet in (is_quiet_first, not is_quiet_first)], int(is_quiet_first)
        running.enter_context(_side_by_side(stacks))
        files = [upload(stack.client(), content) for stack in stacks]
        costs, used_by_broker_s = list[list[float]](), list[float]()
        expected_s = 2 * rows / ROWS_PER_SECOND_MAX
        with scraped(stacks[loud]):
            for _ in range(rounds + 1):
                began = time.monotonic()
                broker_s = _broker_cpu_s(broker)
                costs.append(_round(stacks, files, rows, expected_s))
                used_by_broker_s.append(_broker_cpu_s(broker) - broker_s)
                expected_s = time.monotonic() - began
        num_spans = len(sink.spans)
    # The first round finds everything cold.
    means = [statistics.fmean(of_stack) for of_stack in zip(*costs[1:], strict=True)]
    broker_us = 1e6 * statistics.fmean(used_by_broker_s[1:]) / (len(stacks) * rows)
    return Pair(means[loud], means[1 - loud], broker_us, num_spans / (rows * (rounds + 1)))


def _broker_cpu_s(broker: Server) -> float:
    """CPU so far; of one that somebody else runs nobody knows, and it does not count then."""
    return cpu_of_family(int(broker.extra["pid"])) if "pid" in broker.extra else 0.0


def _round(stacks: Sequence[Stack], files: Sequence[str], rows: int, expected_s: float) -> list[float]:
    """CPU that a row took of each stack, in microseconds."""
    starts = [cpu_seconds(stack) for stack in stacks]
    clients = [stack.client() for stack in stacks]
    batches = [submit_file(client, file_id) for client, file_id in zip(clients, files, strict=True)]
    time.sleep(QUIET_SHARE * expected_s)
    for client, batch in zip(clients, batches, strict=True):
        wait_for_end(client, batch.id, timeout_s=900)
    used = [minus(cpu_seconds(stack), start) for stack, start in zip(stacks, starts, strict=True)]
    return [1e6 * sum(cpu for name, cpu in each.items() if name != "kafka") / rows for each in used]


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
