"""Producers of a chaos run that make batches straight in Kafka: opened, filled, repeated, closed, some of them rolled.

What the broker acknowledged must be in the files of the batch's parts exactly once, or was answered because it came
too late; imports nothing of ours.
"""

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import openai
from confluent_kafka import Producer
from openai import OpenAI

from tests.chaos.environment import MODEL, Environment
from tests.chaos.log_tail import read_topic
from tests.chaos.verifier import TERMINAL, Finding

ACK_TIMEOUT_MS = 10_000
LINES_MIN, LINES_MAX = 5, 150
WAIT_POLL_S = 1.0
PAGE = 100


@dataclass
class TopicBatch:
    """A batch as its producer knows it. One that is `keyed` has all its records in one partition, in order."""

    name: str
    is_keyed: bool
    roll_lines: int
    texts: dict[str, str] = field(default_factory=dict)
    is_closed: bool = False


class TopicProducers:
    """Produces batch after batch until told to stop."""

    def __init__(self, env: Environment, rng: random.Random) -> None:
        self._env, self._rng = env, rng
        self.batches: list[TopicBatch] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="topic producers", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no more batches; the one under way is closed."""
        self._stopping = True
        self._thread.join(180)

    @property
    def num_lines(self) -> int:
        """Lines of all batches."""
        return sum(len(batch.texts) for batch in self.batches)

    def check(self, timeout_s: float) -> list[Finding]:
        """Wait until all batches have ended, and say what is missing, doubled or wrong."""
        clients = [
            OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="unused", max_retries=retries)
            # One that was killed again and again is started again after ten seconds, beside three other fleets.
            for port, retries in zip(self._env.api_ports, (5, 12), strict=True)
        ]
        deadline = time.monotonic() + timeout_s
        parts, late = _parts_by_name(clients[0]), self._refused_as_late()
        while not all(_is_over(b, parts, late) for b in self.batches) and time.monotonic() < deadline:
            time.sleep(WAIT_POLL_S)
            parts, late = _parts_by_name(clients[0]), self._refused_as_late()
        found = [Finding("open", b.name, "by topic") for b in self.batches if not _is_over(b, parts, late)]
        for batch in self.batches:
            found += check_topic_batch(batch, parts.get(batch.name, []), clients[1], late)
        for client in clients:
            client.close()
        return found

    def _refused_as_late(self) -> set[str]:
        topic = self._env.topics.results
        answers = [
            json.loads(m.value() or b"{}") for m in read_topic(self._env.bootstrap, topic.name, topic.partitions)
        ]
        return {a["custom_id"] for a in answers if (a.get("error") or {}).get("code") == "batch_closed"}

    def _run(self) -> None:
        while not self._stopping:
            rng = self._rng
            batch = TopicBatch(
                name=f"job-{rng.getrandbits(48):012x}",
                is_keyed=rng.random() < 0.5,
                roll_lines=rng.choice([0, 0, 0, 20]),
            )
            self.batches.append(batch)
            self._produce_batch(batch)

    def _produce_batch(self, batch: TopicBatch) -> None:
        """As a program that dies and starts again: it sends some of its lines once more."""
        rng = self._rng
        producer = _Producer(self._env, batch)
        opening = {"type": "batch-open", "completion_window": "2h", "roll_lines": batch.roll_lines}
        producer.send(opening)
        producer.wait()
        ids = [f"{batch.name}-{n}" for n in range(rng.randint(LINES_MIN, LINES_MAX))]
        batch.texts = {custom_id: f"I am {custom_id}" for custom_id in ids}
        while ids:
            some, ids = ids[:20], ids[20:]
            for custom_id in some + rng.sample(list(batch.texts), 2):
                producer.send(_line(custom_id, batch.texts[custom_id]))
            if rng.random() < 0.2:
                producer.wait()
                producer = _Producer(self._env, batch)
            time.sleep(rng.uniform(0.0, 0.3))
        producer.wait()
        producer.send({"type": "batch-close", "count": len(batch.texts)})
        producer.wait()
        batch.is_closed = True


class _Producer:
    """Sends a batch's records until each is acknowledged, which may send some of them twice."""

    def __init__(self, env: Environment, batch: TopicBatch) -> None:
        self._topic, self._batch = env.topics.intake.name, batch
        self._client = Producer({"bootstrap.servers": env.bootstrap, "message.timeout.ms": ACK_TIMEOUT_MS})
        self._failed: list[dict[str, Any]] = []

    def send(self, value: dict[str, Any]) -> None:
        key = self._batch.name.encode() if self._batch.is_keyed else None

        def note(error: object, _message: object) -> None:
            if error is not None:
                self._failed.append(value)

        headers: list[tuple[str, str | bytes | None]] = [("batch-id", self._batch.name)]
        self._client.produce(self._topic, json.dumps(value).encode(), key, headers=headers, on_delivery=note)

    def wait(self) -> None:
        while self._client.flush(ACK_TIMEOUT_MS / 1000 + 5) or self._failed:
            again, self._failed = self._failed, []
            for value in again:
                self.send(value)


def _line(custom_id: str, text: str) -> dict[str, Any]:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def _parts_by_name(client: OpenAI) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    try:
        for part in client.batches.list(limit=PAGE):
            extension = part.x_headrace  # type: ignore[attr-defined]
            if extension["name"]:
                found.setdefault(extension["name"], []).append(part)
    except openai.APIError:
        return {}
    return found


def _is_over(batch: TopicBatch, parts: dict[str, list[Any]], late: set[str]) -> bool:
    mine = parts.get(batch.name, [])
    num_lines = sum(part.request_counts.total for part in mine) + len(late & set(batch.texts))
    return bool(mine) and all(part.status in TERMINAL for part in mine) and num_lines >= len(batch.texts)


def check_topic_batch(batch: TopicBatch, parts: list[Any], client: OpenAI, late: set[str]) -> list[Finding]:
    """What is wrong with the parts that a batch by topic became; `late` lines were answered as such."""
    found, seen = list[Finding](), Counter[str]()
    for part in parts:
        for file_id in (part.output_file_id, part.error_file_id):
            for line in client.files.content(file_id).text.splitlines() if file_id else ():
                try:
                    entry = json.loads(line)
                except ValueError:
                    found.append(Finding("changed", part.id, f"no line of a result: {line[:80]!r}"))
                    continue
                seen[entry["custom_id"]] += 1
                if file_id == part.output_file_id:
                    text = entry["response"]["body"]["choices"][0]["message"]["content"]
                    if text != batch.texts.get(entry["custom_id"]):
                        found.append(Finding("crossed", part.id, entry["custom_id"]))
        if batch.is_keyed and (part.status, part.errors) != ("completed", None):
            found.append(Finding("counts", part.id, f"{part.status}, {part.errors}"))
    found += [Finding("lost", batch.name, c) for c in batch.texts if not seen[c] and c not in late]
    found += [Finding("doubled", batch.name, c) for c, times in seen.items() if times > 1 or c not in batch.texts]
    if batch.is_keyed:
        found += [Finding("lost", batch.name, f"{c} came too late") for c in batch.texts if c in late and not seen[c]]
    return found
