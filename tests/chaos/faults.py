"""The faults of a chaos run: each is a function that does harm, waits, and mends what it broke."""

import contextlib
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.chaos.environment import DISK_MB, MODEL, Environment
from tests.chaos.log_tail import headers_of

# Longer than the default session timeout.
FREEZE_WORKER_S = 13.0
# Kafka's error codes: 6 not leader, 7 timed out, 15 no coordinator, 16 not coordinator, 19 too few replicas,
# 27 rebalance in progress.
_PRODUCE_CODES, _FETCH_CODES, _COMMIT_CODES = (6, 7, 19), (6, 7), (15, 16, 27)
_API_PRODUCE, _API_FETCH, _API_COMMIT, _API_JOIN = 0, 1, 8, 11


@dataclass(frozen=True)
class Fault:
    """A fault; `kind` groups the figures."""

    kind: str
    strike: Callable[[], None]
    weight: int = 1


class Injector:
    """Chooses faults by the seed and counts them."""

    def __init__(self, env: Environment, rng: random.Random, only: str = "") -> None:
        self._env, self._rng = env, rng
        self.counts: Counter[str] = Counter()
        self.struck: list[tuple[float, str]] = []
        self.injected: Counter[tuple[bytes, bytes]] = Counter()
        faults = self._real() if env.tier == "real" else self._memory()
        self._faults = [fault for fault in faults if re.search(only, fault.kind)]
        assert self._faults, f"no fault is called {only!r}: {sorted({fault.kind for fault in faults})}"
        self._queue: list[Fault] = []

    def strike_one(self) -> None:
        """The next fault; every kind comes up before one comes again."""
        if not self._queue:
            self._queue = [fault for fault in self._faults for _ in range(fault.weight)]
            self._rng.shuffle(self._queue)
        fault = self._queue.pop()
        self.counts[fault.kind] += 1
        self.struck.append((time.time(), fault.kind))
        fault.strike()

    def mend(self) -> None:
        """Undo what may still be broken."""
        for proxy in self._env.proxies.values():
            proxy.set_mode("pass")
        for name, child in self._env.fleet.children.items():
            if child.frozen:
                self._env.fleet.thaw(name)

    def _services(self) -> list[Fault]:
        fleet, freeze = self._env.fleet, self._freeze
        services = [name for name in fleet.children if name not in ("kafka", "store")]
        return [
            Fault("kill -9 inference", partial(self._kill_one, "inference"), 3),
            Fault("kill -9 collector", partial(self._kill_one, "collector"), 2),
            Fault("kill -9 ingest", partial(self._kill_one, "ingest"), 2),
            Fault("kill -9 all services", partial(fleet.kill, services)),
            Fault("SIGSTOP worker", partial(freeze, "inference", FREEZE_WORKER_S)),
            Fault("SIGSTOP collector", partial(freeze, "collector", 5.0)),
            Fault("SIGSTOP ingest", partial(freeze, "ingest", FREEZE_WORKER_S)),
            Fault("duplicate producer", self._produce_copies, 2),
        ]

    def _real(self) -> list[Fault]:
        fleet = self._env.fleet
        return [
            *self._services(),
            Fault("kill -9 broker", partial(fleet.kill, ["kafka"])),
            Fault("kill -9 store", partial(fleet.kill, ["store"])),
            Fault("kill -9 everything", partial(fleet.kill, list(fleet.children))),
            *(
                Fault(f"{name}: {mode}", partial(self._misroute, name, mode))
                for name in self._env.proxies
                for mode in ("cut", "delay", "half_open", "drop_answers")
            ),
            *(Fault(f"disk full: {name}", partial(self._fill, disk)) for name, disk in self._env.disks.items()),
        ]

    def _memory(self) -> list[Fault]:
        errors = {
            "produce": (_API_PRODUCE, _PRODUCE_CODES),
            "fetch": (_API_FETCH, _FETCH_CODES),
            "commit": (_API_COMMIT, _COMMIT_CODES),
            "join": (_API_JOIN, _COMMIT_CODES),
        }
        return [
            *self._services(),
            Fault("leader moves", self._move_leaders, 3),
            *(Fault(f"error codes: {name}", partial(self._push_errors, *what), 2) for name, what in errors.items()),
            Fault("broker down", self._broker_down),
        ]

    def _kill_one(self, service: str) -> None:
        self._env.fleet.kill([self._rng.choice(self._env.fleet.named(service)).name])

    def _freeze(self, service: str, seconds: float) -> None:
        name = self._rng.choice(self._env.fleet.named(service)).name
        self._env.fleet.freeze(name)
        time.sleep(seconds)
        self._env.fleet.thaw(name)

    def _misroute(self, name: str, mode: str) -> None:
        proxy = self._env.proxies[name]
        proxy.set_mode(mode)
        time.sleep(self._rng.uniform(1.0, 6.0))
        proxy.set_mode("pass")

    def _fill(self, disk: Path) -> None:
        """Use up the disk for some seconds."""
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as out:
            for _ in range(DISK_MB + 1):
                out.write(b"\0" * 1024 * 1024)
        time.sleep(self._rng.uniform(2.0, 5.0))
        filler.unlink(missing_ok=True)

    def _move_leaders(self) -> None:
        memory = self._env.memory
        assert memory is not None
        for topic in self._env.topics.all_for((MODEL,)):
            for partition in range(topic.partitions):
                if self._rng.random() < 0.5:
                    memory.set_leader(topic.name, partition, self._rng.randint(1, 3))

    def _push_errors(self, api: int, codes: Sequence[int]) -> None:
        assert self._env.memory is not None
        self._env.memory.push_errors(api, [self._rng.choice(codes) for _ in range(self._rng.randint(1, 6))])

    def _broker_down(self) -> None:
        memory, broker = self._env.memory, self._rng.randint(1, 3)
        assert memory is not None
        memory.set_down(broker)
        time.sleep(self._rng.uniform(1.0, 4.0))
        memory.set_up(broker)

    def _produce_copies(self) -> None:
        """Send again some of what was sent before, requests and completions alike."""
        consumer = Consumer({"bootstrap.servers": self._env.bootstrap, "group.id": "copier"})
        producer = Producer({"bootstrap.servers": self._env.bootstrap, "message.timeout.ms": 10_000})
        try:
            for topic in (self._env.topics.requests(MODEL), self._env.topics.completions):
                partition = TopicPartition(topic.name, self._rng.randrange(topic.partitions))
                low, high = consumer.get_watermark_offsets(partition, timeout=5)
                partition.offset = self._rng.randint(low, max(low, high - 1))
                consumer.assign([partition])
                for message in consumer.consume(20, timeout=3):
                    headers = headers_of(message)
                    if message.error() or headers.get("kind", b"line") != b"line" or "batch" not in headers:
                        continue
                    # A copied completion is one more, and a copied request is answered once more.
                    self.injected[headers["batch"], headers["line"]] += 1
                    producer.produce(
                        topic.name,
                        message.value(),
                        message.key(),
                        message.partition() or 0,
                        headers=list(headers.items()),
                    )
            producer.flush(10)
        except Exception as error:
            print(f"  copies not sent: {error!r}", flush=True)
        finally:
            consumer.close()
