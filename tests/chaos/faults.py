"""The faults of a chaos run: each is a function that does harm, waits, and mends what it broke."""

import contextlib
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.chaos.environment import DISK_MB, MODEL, Environment

# Longer than the default session timeout.
FREEZE_WORKER_S = 13.0
# Kafka's error codes: 6 not leader, 7 timed out, 15 no coordinator, 16 not coordinator, 19 too few replicas,
# 27 rebalance in progress.
_PRODUCE_CODES, _FETCH_CODES, _COMMIT_CODES = (6, 7, 19), (6, 7), (15, 16, 27)
_API_PRODUCE, _API_FETCH, _API_COMMIT, _API_JOIN = 0, 1, 8, 11


@dataclass(frozen=True)
class Fault:
    """A fault by name; `kind` groups the figures."""

    name: str
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
        fleet, faults = self._env.fleet, []
        for service, weight in (("inference", 3), ("collector", 2), ("ingest", 2)):
            faults.append(Fault(f"kill {service}", f"kill -9 {service}", lambda s=service: self._kill_one(s), weight))
        everything = [n for n in fleet.children if n not in ("kafka", "store")]
        faults.append(Fault("kill all", "kill -9 all services", lambda: fleet.kill(everything)))
        faults.append(Fault("freeze", "SIGSTOP worker", lambda: self._freeze("inference", FREEZE_WORKER_S)))
        faults.append(Fault("freeze", "SIGSTOP collector", lambda: self._freeze("collector", 5.0)))
        faults.append(Fault("freeze", "SIGSTOP ingest", lambda: self._freeze("ingest", FREEZE_WORKER_S)))
        faults.append(Fault("copies", "duplicate producer", self._produce_copies, 2))
        return faults

    def _real(self) -> list[Fault]:
        fleet, faults = self._env.fleet, self._services()
        faults.append(Fault("kill kafka", "kill -9 broker", lambda: fleet.kill(["kafka"])))
        faults.append(Fault("kill store", "kill -9 store", lambda: fleet.kill(["store"])))
        faults.append(Fault("kill world", "kill -9 everything", lambda: fleet.kill(list(fleet.children))))
        for name in self._env.proxies:
            for mode in ("cut", "delay", "half_open", "drop_answers"):
                faults.append(Fault(mode, f"{name}: {mode}", lambda n=name, m=mode: self._misroute(n, m)))
        for name, disk in self._env.disks.items():
            faults.append(Fault("disk", f"disk full: {name}", lambda d=disk: self._fill(d)))
        return faults

    def _memory(self) -> list[Fault]:
        faults = self._services()
        faults.append(Fault("leader", "leader moves", self._move_leaders, 3))
        for api, codes, name in (
            (_API_PRODUCE, _PRODUCE_CODES, "produce"),
            (_API_FETCH, _FETCH_CODES, "fetch"),
            (_API_COMMIT, _COMMIT_CODES, "commit"),
            (_API_JOIN, _COMMIT_CODES, "join"),
        ):
            faults.append(Fault(name, f"error codes: {name}", lambda a=api, c=codes: self._push_errors(a, c), 2))
        faults.append(Fault("broker", "broker down", self._broker_down))
        return faults

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
                    if message.error() or dict(message.headers() or []).get("kind", b"line") != b"line":
                        continue
                    headers = dict(message.headers() or [])
                    # A copied completion is one more, and a copied request is answered once more.
                    self.injected[headers["batch"], headers["line"]] += 1
                    producer.produce(
                        topic.name, message.value(), message.key(), message.partition(), headers=message.headers()
                    )
            producer.flush(10)
        except Exception as error:
            print(f"  copies not sent: {error!r}", flush=True)
        finally:
            consumer.close()
