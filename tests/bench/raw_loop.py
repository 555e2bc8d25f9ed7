"""The least that the same client can do: produce, consume, produce, consume, and nothing else.

    python -m tests.bench.raw_loop HOST:PORT [ROWS] [BYTES]

Three processes, as dispatcher, worker and collector are, on topics with as many partitions. What Headrace reaches is
measured against this in the same run.
"""

import asyncio
import multiprocessing
import resource
import secrets
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

PARTITIONS = (12, 4)
SENDS_AT_ONCE = 500
OPTIONS: dict[str, Any] = {"acks": "all", "linger_ms": 5, "max_batch_size": 256 * 1024}
Arguments = tuple[str, tuple[str, str], int, int]
Main = Callable[[str, tuple[str, str], int, int], Coroutine[Any, Any, float]]
HEADERS = [("batch", b"batch_0"), ("line", b"1"), ("total", b"50000")]


@dataclass(frozen=True, slots=True)
class RawLoop:
    """What the bare loop did: rows a second from the first send to the last poll, and CPU of its processes."""

    rows_per_second: float
    cpu_us_per_row: float


async def _produce(bootstrap: str, topics: tuple[str, str], rows: int, size: int) -> float:
    """When it began."""
    value = b"x" * size
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, **OPTIONS) as producer:
        began = time.time()
        for start in range(0, rows, SENDS_AT_ONCE):
            sent = [
                await producer.send(topics[0], value, partition=row % PARTITIONS[0], headers=HEADERS)
                for row in range(start, min(rows, start + SENDS_AT_ONCE))
            ]
            await asyncio.gather(*sent)
    return began


async def _relay(bootstrap: str, topics: tuple[str, str], rows: int, _size: int) -> float:
    consumer = AIOKafkaConsumer(
        topics[0],
        bootstrap_servers=bootstrap,
        group_id=topics[0],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    async with consumer, AIOKafkaProducer(bootstrap_servers=bootstrap, **OPTIONS) as producer:
        while rows:
            polled = await consumer.getmany(timeout_ms=200, max_records=SENDS_AT_ONCE)
            sent = [
                await producer.send(
                    topics[1],
                    record.value,
                    key=b"batch_0#0",
                    partition=record.offset % PARTITIONS[1],
                    headers=list(record.headers),
                )
                for records in polled.values()
                for record in records
            ]
            await asyncio.gather(*sent)
            rows -= len(sent)
        await consumer.commit()
    return time.time()


async def _consume(bootstrap: str, topics: tuple[str, str], rows: int, _size: int) -> float:
    """When the last one came."""
    consumer = AIOKafkaConsumer(
        topics[1], bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    async with consumer:
        while rows:
            polled = await consumer.getmany(timeout_ms=200, max_records=2_000)
            rows -= sum(len(records) for records in polled.values())
    return time.time()


def _child(main: Main, arguments: Arguments, said: "multiprocessing.SimpleQueue[tuple[str, float]]") -> None:
    said.put((main.__name__, asyncio.run(main(*arguments))))


async def _create(bootstrap: str, topics: tuple[str, str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(name, count, 1) for name, count in zip(topics, PARTITIONS, strict=True)])
    await admin.close()


async def _delete(bootstrap: str, topics: tuple[str, str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.delete_topics(list(topics))
    await admin.close()


def run(bootstrap: str, rows: int, size: int) -> RawLoop:
    """One round on topics of its own."""
    name = f"raw.{secrets.token_hex(4)}"
    topics = (f"{name}.requests", f"{name}.completions")
    asyncio.run(_create(bootstrap, topics))
    context = multiprocessing.get_context("spawn")
    said: multiprocessing.SimpleQueue[tuple[str, float]] = context.SimpleQueue()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = [
        context.Process(target=_child, args=(main, (bootstrap, topics, rows, size), said))
        for main in (_relay, _consume, _produce)
    ]
    for process in children[:2]:
        process.start()
    time.sleep(2)  # both have joined
    children[2].start()
    for process in children:
        process.join()
        assert process.exitcode == 0
    times = dict(said.get() for _ in children)
    seconds = times["_consume"] - times["_produce"]
    asyncio.run(_delete(bootstrap, topics))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return RawLoop(rows / seconds, 1e6 * cpu / rows)


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[2:]]
    print(run(sys.argv[1], *(numbers + [50_000, 2_100][len(numbers) :])))
