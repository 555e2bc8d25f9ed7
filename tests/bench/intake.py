"""What does a request cost that comes straight from Kafka, and how soon is it answered?"""

import json
import tempfile
import time
import uuid
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from shared.settings import KafkaSettings
from shared.topics import Topics
from tests.bench.figure import Figure, median_of
from tests.bench.processes import cpu_seconds, minus
from tests.e2e.stack import Stack, chat_line

TOPICS = Topics(KafkaSettings())
SINGLE, RECORDS, BYTES, ROUNDS = 300, 50_000, 500, 3
WARM_UP = 100
PAUSE_S, TIMEOUT_S = 0.02, 300.0


class Client:
    """A producer of the intake and a reader of the results, from where they end now on."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "linger.ms": 0, "queue.buffering.max.messages": 10**6}
        )
        self._results = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench", "fetch.wait.max.ms": 50})
        name = TOPICS.results.name
        partitions = [TopicPartition(name, number) for number in range(TOPICS.results.partitions)]
        ends = [self._results.get_watermark_offsets(tp)[1] for tp in partitions]
        self._results.assign(
            [TopicPartition(name, tp.partition, end) for tp, end in zip(partitions, ends, strict=True)]
        )

    def send(self, num: int, num_bytes: int = 0) -> set[str]:
        """Requests with ids of their own, handed to the client."""
        names = [uuid.uuid4().hex for _ in range(num)]
        for name in names:
            value = json.dumps(chat_line(name, "echo", "x" * num_bytes)).encode()
            self._producer.produce(TOPICS.intake.name, value)
            self._producer.poll(0)
        return set(names)

    def wait(self, names: set[str]) -> None:
        """Until each has its answer."""
        self._producer.flush(0)
        deadline = time.monotonic() + TIMEOUT_S
        while names:
            assert time.monotonic() < deadline, f"{len(names)} without an answer"
            for message in self._results.consume(1_000 if len(names) > 1 else 1, 1.0 if len(names) == 1 else 0.05):
                names.discard((message.key() or b"").decode())

    def close(self) -> None:
        """Leave."""
        self._producer.flush(10)
        self._results.close()


def measure(rounds: int = ROUNDS, records: int = RECORDS, singles: int = SINGLE) -> list[Figure]:
    """Single requests on an idle stack, then many at once."""
    with tempfile.TemporaryDirectory() as data, Stack(Path(data), ["--engine", "echo"]) as stack:
        client = Client(stack.stack_file()["kafka"])
        client.wait(client.send(200))
        for _ in range(WARM_UP):
            _wait_for_one(client)
        waits = sorted(_wait_for_one(client) for _ in range(singles))
        found = [_flood(stack, client, records) for _ in range(rounds)]
        client.close()
    costs = [cost["ingest-0"] for _, cost in found]
    return [
        Figure("single request, idle stack: p50", waits[len(waits) // 2] * 1e3, "ms", "< 50"),
        Figure("single request, idle stack: p99", waits[len(waits) * 99 // 100] * 1e3, "ms", "< 150"),
        median_of("admission", [1 / cost for cost in costs], "records/s and core", "≥ 10,000"),
        median_of("requests without a batch, answered", [records / seconds for seconds, _ in found], "rows/s"),
        *(median_of(f"  CPU: {name}", [cost[name] * 1e6 for _, cost in found], "us/row") for name in found[0][1]),
    ]


def _wait_for_one(client: Client) -> float:
    time.sleep(PAUSE_S)
    began = time.perf_counter()
    client.wait(client.send(1))
    return time.perf_counter() - began


def _flood(stack: Stack, client: Client, records: int) -> tuple[float, dict[str, float]]:
    before, began = cpu_seconds(stack), time.perf_counter()
    client.wait(client.send(records, BYTES))
    seconds = time.perf_counter() - began
    return seconds, {name: used / records for name, used in minus(cpu_seconds(stack), before).items()}
