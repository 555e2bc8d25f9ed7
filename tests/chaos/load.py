"""The users of a chaos run: they upload, create, cancel and look, through the unchanged SDK."""

import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import openai
from openai import OpenAI

from tests.chaos.environment import MODEL, Environment
from tests.chaos.verifier import TERMINAL, Finding, Watch


@dataclass(frozen=True)
class Demand:
    """How much users ask for: lines of a batch, from and to, open batches at once, and batches in all (0 = no end);
    requests a second straight from Kafka."""

    lines_min: int = 1
    lines_max: int = 400
    open_max: int = 6
    num_batches: int = 0
    with_ends: bool = True
    requests_per_second: float = 20.0
    with_topic_batches: bool = True


@dataclass
class Sent:
    """A batch as a user knows it."""

    batch_id: str
    content: bytes
    will_cancel_at: float | None = None
    last: dict[str, Any] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether its last state is terminal."""
        return self.last.get("status") in TERMINAL


class Users:
    """Creates batches until told to stop, and watches all of them."""

    def __init__(self, env: Environment, rng: random.Random, watch: Watch, demand: Demand) -> None:
        self._env, self._rng, self._watch = env, rng, watch
        self._demand = demand
        self.sent: list[Sent] = []
        self.creating = True
        self.stopping = False
        self._clients = [
            OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="unused", max_retries=2, timeout=20)
            for port in env.api_ports
        ]
        self._thread = threading.Thread(target=self._run, name="users", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self.stopping = True
        self._thread.join(60)

    def close(self) -> None:
        """Close all connections; nothing can be downloaded any more."""
        for client in self._clients:
            client.close()

    @property
    def num_open(self) -> int:
        """Batches without an end."""
        return sum(not sent.is_over for sent in self.sent)

    @property
    def are_served(self) -> bool:
        """Whether all batches that they want have ended."""
        return 0 < self._demand.num_batches <= len(self.sent) and self.num_open == 0

    def download(self, file_id: str | None) -> bytes:
        """A result file's bytes; nothing when there is no file."""
        if file_id is None:
            return b""
        for attempt in range(10):
            try:
                return self._clients[attempt % 2].files.content(file_id).read()
            except openai.APIError:
                time.sleep(1)
        self._watch.findings.append(Finding("changed", file_id, "cannot be downloaded"))
        return b""

    def _run(self) -> None:
        while not self.stopping:
            try:
                wanted = self.creating and not 0 < self._demand.num_batches <= len(self.sent)
                if wanted and self.num_open < self._demand.open_max:
                    self._create()
                self._look()
            except openai.APIError:
                time.sleep(0.3)  # the API is away; the same is tried again
            time.sleep(0.1)

    def _create(self) -> None:
        rng, demand = self._rng, self._demand
        short_window = demand.with_ends and rng.random() < 0.1
        tag, num_lines = f"{rng.getrandbits(32):08x}", rng.randint(demand.lines_min, demand.lines_max)
        lines = [
            {
                "custom_id": f"{tag}-{n}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": MODEL, "messages": [{"role": "user", "content": f"text {n} of {tag}"}]},
            }
            for n in range(num_lines * (4 if short_window else 1))
        ]
        content = "\n".join(map(json.dumps, lines)).encode()
        client = self._clients[1 if short_window else 0]
        file = client.files.create(file=("input.jsonl", content), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"tag": tag}
        )
        is_cancelled = demand.with_ends and rng.random() < 0.15
        cancel_at = time.monotonic() + rng.uniform(0, 4) if is_cancelled else None
        self.sent.append(Sent(batch.id, content, cancel_at))

    def _look(self) -> None:
        for sent in list(self.sent):
            if sent.is_over:
                continue
            client = self._rng.choice(self._clients)
            sent.last = client.batches.retrieve(sent.batch_id).model_dump()
            self._watch.see_counts(sent.last)
            if sent.is_over:
                for file_id in (sent.last["output_file_id"], sent.last["error_file_id"]):
                    if file_id:
                        self._watch.see_content(file_id, self.download(file_id))
            elif sent.will_cancel_at is not None and time.monotonic() > sent.will_cancel_at:
                sent.will_cancel_at = None
                self._cancel(client, sent.batch_id)

    def _cancel(self, client: OpenAI, batch_id: str) -> None:
        try:
            client.batches.cancel(batch_id)
        except openai.ConflictError:
            return  # it ended first
