"""The other users of a chaos run: they produce requests straight to Kafka, good and hostile ones.

What the broker acknowledged must be answered, or lie on the dead-letter topic; imports nothing of ours.
"""

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Message, Producer

from tests.chaos.environment import MODEL, Environment
from tests.chaos.log_tail import read_topic
from tests.chaos.verifier import Finding

ACK_TIMEOUT_MS = 20_000
# Long enough that no request expires while it waits for a fault to end.
DEADLINE_S = 3600
WAIT_POLL_S = 2.0


@dataclass
class Requests:
    """What was acknowledged: texts by request id, and hostile values; and what came back."""

    texts: dict[str, str] = field(default_factory=dict)
    hostile: set[bytes] = field(default_factory=set)
    num_answers: int = 0

    @property
    def num_repeated(self) -> int:
        """Answers that repeat one."""
        return max(0, self.num_answers - len(self.texts))


class Outsiders:
    """Produces until told to stop."""

    def __init__(self, env: Environment, rng: random.Random, per_second: float) -> None:
        self._env, self._rng, self._per_second = env, rng, per_second
        self.acknowledged = Requests()
        self._stopping = False
        self._producer = Producer({"bootstrap.servers": env.bootstrap, "message.timeout.ms": ACK_TIMEOUT_MS})
        self._thread = threading.Thread(target=self._run, name="outsiders", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Produce no more; what the broker does not acknowledge in time counts as never sent."""
        self._stopping = True
        self._thread.join(60)
        self._producer.flush(ACK_TIMEOUT_MS / 1000 + 5)

    def check(self, timeout_s: float) -> list[Finding]:
        """Wait until everything is answered or parked, and say what is not, or wrong."""
        deadline = time.monotonic() + timeout_s
        while (missing := self._missing()) and time.monotonic() < deadline:
            time.sleep(WAIT_POLL_S)
        found = [Finding("lost", "request", str(name)) for name in missing]
        topic = self._env.topics.results
        answers = [m for m in self._messages(topic.name, topic.partitions) if _key(m) in self.acknowledged.texts]
        self.acknowledged.num_answers = len(answers)
        ids: dict[str, set[str]] = {}
        for message in answers:
            line, name = json.loads(message.value() or b"{}"), _key(message)
            ids.setdefault(name, set()).add(line["id"])
            found += self._check_answer(name, line)
        found += [Finding("changed", "request", name) for name, several in ids.items() if len(several) > 1]
        others = Counter(line_id for several in ids.values() for line_id in several)
        return found + [Finding("crossed", "request", line_id) for line_id, num in others.items() if num > 1]

    def _check_answer(self, name: str, line: dict[str, Any]) -> list[Finding]:
        if line["response"] is None:
            return [Finding("lost", "request", f"{name} ended as {line['error']}")]
        text = line["response"]["body"]["choices"][0]["message"]["content"]
        return [] if text == self.acknowledged.texts[name] else [Finding("crossed", "request", name)]

    def _missing(self) -> list[str | bytes]:
        topics = self._env.topics
        answered = {_key(message) for message in self._messages(topics.results.name, topics.results.partitions)}
        parked = {message.value() for message in self._messages(topics.dlq.name, topics.dlq.partitions)}
        requests = [name for name in self.acknowledged.texts if name not in answered]
        return [*requests, *(value for value in self.acknowledged.hostile if value not in parked)]

    def _messages(self, topic: str, partitions: int) -> list[Message]:
        return read_topic(self._env.bootstrap, topic, partitions)

    def _run(self) -> None:
        while not self._stopping:
            if self._rng.random() < 0.1:
                self._send_hostile()
            else:
                self._send_request()
            self._producer.poll(0)
            time.sleep(self._rng.expovariate(self._per_second))

    def _send_request(self) -> None:
        name, rng = f"req-{self._rng.getrandbits(64):016x}", self._rng
        text = f"I am {name}"
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
        line = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
        deadline_ms = int((time.time() + DEADLINE_S) * 1000)
        headers: list[tuple[str, str | bytes | None]] = [("deadline-ms", str(deadline_ms))]
        headers.append(("class", rng.choice(["interactive", "batch"])))

        def note(error: object, _message: object) -> None:
            if error is None:
                self.acknowledged.texts[name] = text

        self._produce(json.dumps(line).encode(), headers, note)
        if rng.random() < 0.1:  # as a producer that was restarted, by another partition maybe
            self._produce(json.dumps(line).encode(), headers, note, key=name.encode())

    def _send_hostile(self) -> None:
        value = self._rng.choice([b"no json ", b'{"custom_id": 5} ', b"\xff\x00", b"[]"]) + self._rng.randbytes(8)

        def note(error: object, _message: object) -> None:
            if error is None:
                self.acknowledged.hostile.add(value)

        self._produce(value, [], note)

    def _produce(self, value: bytes, headers: Any, note: Any, key: bytes | None = None) -> None:
        try:
            self._producer.produce(self._env.topics.intake.name, value, key, headers=headers, on_delivery=note)
        except BufferError:
            self._producer.poll(0.1)  # the broker is away, and enough is waiting for it


def _key(message: Message) -> str:
    return (message.key() or b"").decode(errors="replace")
