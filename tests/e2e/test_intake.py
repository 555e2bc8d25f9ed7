"""Requests straight from Kafka: from any producer, answered on a topic, and never in silence."""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c
from confluent_kafka import Consumer, Producer, TopicPartition

from shared.settings import KafkaSettings
from shared.topics import Topics
from tests.chaos.log_tail import read_topic
from tests.conftest import skip_unexercised
from tests.e2e.stack import Stack, chat_line
from tests.providers import Server

Headers = list[tuple[str, str | bytes | None]]


class Outsider:
    """A program that knows the public contract and another Kafka client."""

    def __init__(self, bootstrap: str, topics: Topics) -> None:
        self.bootstrap, self.topics = bootstrap, topics
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})

    def send(self, value: bytes | dict[str, Any] | None, headers: Headers = (), key: bytes | None = None) -> None:  # type: ignore[assignment]
        content = json.dumps(value).encode() if isinstance(value, dict) else value
        self._producer.produce(self.topics.intake.name, content, key, headers=list(headers))

    def flush(self) -> None:
        assert self._producer.flush(30) == 0

    def read(self, topic: str, until: Any, timeout_s: float = 60.0) -> list[Any]:
        """All messages of a topic, as soon as there are enough."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "x", "auto.offset.reset": "earliest"})
        numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
        found: list[Any] = []
        deadline = time.monotonic() + timeout_s
        while not until(found):
            assert time.monotonic() < deadline, f"{len(found)} messages on {topic}: {[m.value() for m in found[:5]]}"
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                found.append(message)
        consumer.close()
        return found

    def all_results(self) -> list[Any]:
        """What is on the results topic now."""
        return read_topic(self.bootstrap, self.topics.results.name, self.topics.results.partitions)

    def answers(self, ids: set[str], topic: str | None = None) -> dict[str, Any]:
        """The answers to these requests, once there is one for each, and no two unlike ones."""
        found: dict[str, Any] = {}

        def is_enough(messages: list[Any]) -> bool:
            found.update({m.key().decode(): m for m in messages[-1:] if m.key().decode() in ids})
            return ids <= set(found)

        self.read(topic or self.topics.results.name, is_enough)
        return found


def headers_of(message: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in message.headers()}


@pytest.fixture(scope="module")
def topics() -> Topics:
    return Topics(KafkaSettings(topic_prefix=f"intake-{secrets.token_hex(3)}."))


@pytest.fixture(scope="module")
def stack(kafka: Server, topics: Topics, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    prefix = topics.intake.name.removesuffix("intake")
    env = {
        "HEADRACE_KAFKA__TOPIC_PREFIX": prefix,
        "HEADRACE_INGEST__INTAKE__REPLY_TOPICS": json.dumps([f"{prefix}answers"]),
        "HEADRACE_INGEST__INTAKE__TENANT_TOPICS": json.dumps({f"{prefix}of-acme": "acme"}),
        "HEADRACE_INGEST__TENANT_LIMITS": json.dumps({"acme": {"intake_per_minute": 5}}),
    }
    address = "memory" if kafka.provider == "memory" else kafka.address
    arguments = ["--engine", "echo", "--model", "echo", "--workers", "2", "--kafka", address]
    with Stack(tmp_path_factory.mktemp("intake"), arguments, env) as running:
        yield running


@pytest.fixture
def outsider(stack: Stack, topics: Topics) -> Outsider:
    return Outsider(stack.stack_file()["kafka"], topics)


def name_of() -> str:
    return f"r-{secrets.token_hex(4)}"


def test_bare_value_is_answered_under_its_custom_id(outsider: Outsider) -> None:
    names = {name_of() for _ in range(50)}
    for name in names:
        outsider.send(chat_line(name, "echo", f"I am {name}"))
    outsider.flush()

    for name, answer in outsider.answers(names).items():
        line = json.loads(answer.value())
        assert line["custom_id"] == name
        assert line["error"] is None
        assert name in line["response"]["body"]["choices"][0]["message"]["content"]
        assert line["id"].startswith("batch_req_") and line["id"] == line["response"]["request_id"]
        assert headers_of(answer)["outcome"] == "completed"


def test_repeated_request_runs_once_whatever_partition_it_comes_by(outsider: Outsider) -> None:
    name, last = name_of(), name_of()
    for number in range(20):
        outsider.send(chat_line(f"c{number}", "echo", "again"), [("request-id", name)], key=str(number).encode())
    outsider.flush()
    outsider.answers({name})
    outsider.send(chat_line("c", "echo", "again"), [("ce_id", name), ("ce_source", "/x"), ("ce_type", "t")])
    outsider.send(chat_line(last, "echo", "done"))
    outsider.flush()
    outsider.answers({last})
    time.sleep(1)

    messages = outsider.all_results()
    assert sum(message.key() == name.encode() for message in messages) == 1


def test_bad_requests_are_answered_and_hostile_records_are_dead_letters(outsider: Outsider) -> None:
    unknown, late, nowhere, odd, good = (name_of() for _ in range(5))
    hostile = [b"not json", b"", b"\xff\xfe\x00", b"[" * 5000, None, b'{"custom_id": 7}', b'"text"']
    for value in hostile:
        outsider.send(value, key=b"k" if value is None else None)
    outsider.send(chat_line("s", "echo", "x"), [("schema", "99")])
    outsider.send(chat_line(unknown, "no-such-model", "x"))
    outsider.send(chat_line(late, "echo", "x"), [("deadline-ms", "1000")])
    outsider.send(chat_line(nowhere, "echo", "x"), [("reply-topic", outsider.topics.completions.name)])
    outsider.send(b"{", [("request-id", odd), ("unknown", b"\xff")])
    outsider.send(chat_line(good, "echo", "x"), [("unknown", b"\xff"), ("deadline-ms", None)])
    outsider.flush()

    answers = outsider.answers({unknown, late, nowhere, odd, good})
    codes = {name: (json.loads(answer.value())["error"] or {}).get("code") for name, answer in answers.items()}
    assert codes == {
        unknown: "model_not_found",
        late: "request_expired",
        nowhere: "reply_topic_not_allowed",
        odd: "invalid_json_line",
        good: None,
    }
    assert headers_of(answers[unknown])["error-code"] == "model_not_found"
    letters = outsider.read(outsider.topics.dlq.name, lambda found: len(found) >= len(hostile) + 1)
    errors = Counter(headers_of(letter)["dlq.error"] for letter in letters)
    assert errors == {"unreadable": len(hostile), "unknown_schema": 1}
    assert {letter.value() for letter in letters} >= {value for value in hostile if value is not None}
    assert {headers_of(letter)["dlq.topic"] for letter in letters} == {outsider.topics.intake.name}


def test_answer_goes_to_an_allowed_reply_topic(outsider: Outsider) -> None:
    name, reply_topic = name_of(), outsider.topics.intake.name.removesuffix("intake") + "answers"
    outsider.send(chat_line(name, "echo", "x"), [("reply-topic", reply_topic)])
    outsider.flush()

    answer = outsider.answers({name}, reply_topic)[name]
    assert json.loads(answer.value())["response"]["status_code"] == 200


def test_quota_of_a_tenant_is_kept_and_says_so(outsider: Outsider) -> None:
    topic = outsider.topics.intake.name.removesuffix("intake") + "of-acme"
    names = [name_of() for _ in range(12)]
    for name in names:
        outsider._producer.produce(topic, json.dumps(chat_line(name, "echo", "x")).encode())
    outsider.flush()

    answers = outsider.answers(set(names))
    assert {headers_of(answer)["tenant"] for answer in answers.values()} == {"acme"}
    outcomes = Counter(headers_of(answer).get("error-code") for answer in answers.values())
    assert outcomes == {None: 5, "rate_limit_exceeded": 7}


def test_aborted_transactions_are_not_there_and_committed_ones_are(outsider: Outsider, kafka: Server) -> None:
    if kafka.provider == "memory":
        skip_unexercised("transactions", "a real broker")
    kept, dropped, after = name_of(), name_of(), name_of()
    producer = Producer({"bootstrap.servers": outsider.bootstrap, "transactional.id": name_of()})
    producer.init_transactions(30)
    for name, end in ((dropped, producer.abort_transaction), (kept, producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce(outsider.topics.intake.name, json.dumps(chat_line(name, "echo", "x")).encode())
        producer.flush(30)
        end(30)
    outsider.send(chat_line(after, "echo", "x"))
    outsider.flush()

    answers = outsider.answers({kept, after})
    assert dropped not in answers
    messages = outsider.all_results()
    assert dropped.encode() not in {message.key() for message in messages}


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_codec_of_any_producer_is_read(outsider: Outsider, codec: str) -> None:
    name = name_of()
    producer = Producer({"bootstrap.servers": outsider.bootstrap, "compression.type": codec})
    for number in range(20):
        value = json.dumps(chat_line(f"{name}-{number}", "echo", "x" * 500)).encode()
        producer.produce(outsider.topics.intake.name, value)
    assert producer.flush(30) == 0

    outsider.answers({f"{name}-{number}" for number in range(20)})


def test_schemas_are_served_and_name_what_is_written(outsider: Outsider, stack: Stack) -> None:
    root = stack.url.removesuffix("/v1")
    listed = httpx2.get(f"{root}/schemas").json()["data"]
    assert {entry["id"] for entry in listed} >= {
        *("intake-request.v1.json", "intake-headers.v1.json", "result.v1.json"),
        *("intake-batch-open.v1.json", "intake-batch-close.v1.json"),
    }
    result = httpx2.get(f"{root}/schemas/result.v1.json").json()
    name = name_of()
    outsider.send(chat_line(name, "echo", "x"))
    outsider.flush()
    line = json.loads(outsider.answers({name})[name].value())
    assert set(line) == set(result["required"])
    assert httpx2.get(f"{root}/schemas/none").status_code == 404


def test_nothing_is_lost_when_ingest_and_workers_are_killed_and_drained(outsider: Outsider, stack: Stack) -> None:
    names = [name_of() for _ in range(3000)]
    for number, name in enumerate(names):
        outsider.send(chat_line(name, "echo", f"I am {name}"))
        if number == 500:
            stack.kill("ingest-0")
        if number in (1000, 1500):
            os.kill(stack.pid(f"inference-{number // 500 - 2}"), signal.SIGTERM if number == 1000 else signal.SIGKILL)
        if number % 100 == 0:
            outsider.flush()
            time.sleep(0.1)
    outsider.flush()

    answers = outsider.answers(set(names))
    assert all(json.loads(answer.value())["error"] is None for answer in answers.values())


def dlq(outsider: Outsider, *arguments: str) -> str:
    env = os.environ | {"HEADRACE_KAFKA__TOPIC_PREFIX": outsider.topics.intake.name.removesuffix("intake")}
    command = [sys.executable, "-m", "cli", "dlq", *arguments, "--kafka", outsider.bootstrap]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dead_letters_are_listed_shown_and_sent_again_as_they_were(outsider: Outsider) -> None:
    value, marker = f"garbage {name_of()}".encode(), name_of()
    outsider.send(value, [("x-marker", marker)], key=b"the key")
    outsider.flush()
    outsider.read(outsider.topics.dlq.name, lambda found: any(m.value() == value for m in found))

    listed = json.loads(dlq(outsider, "list", "--error", "unreadable", "--output", "json"))
    letter = next(entry for entry in listed if entry["value"] == value.decode())
    shown = json.loads(dlq(outsider, "show", str(letter["number"])))
    dlq(outsider, "redrive", str(letter["number"]))
    again = outsider.read(outsider.topics.dlq.name, lambda found: sum(m.value() == value for m in found) == 2)

    assert shown["key"] == "the key" and shown["headers"] == {"x-marker": marker}
    assert str(letter["number"]) in dlq(outsider, "list")
    first, second = (message for message in again if message.value() == value)
    assert first.key() == second.key() == b"the key"
    at = "dlq.offset"
    assert {**headers_of(first), at: ""} == {**headers_of(second), at: ""}
    assert len(second.headers()) == len(headers_of(second)), "a header is there twice"
    assert int(headers_of(second)[at]) > int(headers_of(first)[at])


async def send_unparsable(bootstrap: str, topic: str, partition: int, num_before: int, value: bytes) -> int:
    """A batch whose last record has a header name that is not UTF-8, as some clients let one write; its offset."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        batch = producer.create_batch()
        for _ in range(num_before):
            batch.append(key=None, value=value, timestamp=None)
        batch.append(key=None, value=b"x", timestamp=None, headers=[("zz", b"1")])
        data = bytearray(batch._build())
        at = data.index(b"zz")
        data[at : at + 2] = b"\xff\xff"
        data[17:21] = calc_crc32c(bytes(data[21:])).to_bytes(4)
        batch._buffer = bytes(data)
        sent = await (await producer.send_batch(batch, topic, partition=partition))
    finally:
        await producer.stop()
    return int(sent.offset) + num_before


def test_record_that_no_client_can_parse_costs_one_dead_letter_and_stops_nobody(outsider: Outsider) -> None:
    before, behind, topic = name_of(), name_of(), outsider.topics.intake.name
    value = json.dumps(chat_line(before, "echo", "x")).encode()

    offset = asyncio.run(send_unparsable(outsider.bootstrap, topic, 1, 1, value))
    outsider._producer.produce(topic, json.dumps(chat_line(behind, "echo", "x")).encode(), partition=1)
    outsider.flush()

    outsider.answers({before, behind})
    letters = outsider.read(
        outsider.topics.dlq.name, lambda found: any(headers_of(m)["dlq.offset"] == str(offset) for m in found)
    )
    ours = [headers_of(m) for m in letters if headers_of(m)["dlq.offset"] == str(offset)]
    assert [letter["dlq.error"] for letter in ours if letter["dlq.partition"] == "1"] == ["unreadable"]
