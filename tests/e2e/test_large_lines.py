"""Lines that are too large for a record: they lie in the store, and the log stays light."""

import hashlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from confluent_kafka import Producer

from shared.settings import KafkaSettings
from shared.topics import Topics
from tests.chaos.log_tail import headers_of, read_topic
from tests.e2e.stack import Stack, assert_each_line_once, chat_line, chat_lines, result_lines, submit, wait_for_end
from tests.e2e.test_intake import Outsider, name_of
from tests.providers import Server

MIB = 1024 * 1024
SIZES = (1_000, 300_000, MIB, 6 * MIB, 10 * MIB)


@pytest.fixture(scope="module")
def topics() -> Topics:
    return Topics(KafkaSettings(topic_prefix=f"large-{secrets.token_hex(3)}."))


@pytest.fixture(scope="module")
def stack(real_kafka: Server, topics: Topics, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    env = {
        "HEADRACE_KAFKA__TOPIC_PREFIX": topics.intake.name.removesuffix("intake"),
        "HEADRACE_INFERENCE__ECHO__EMBEDDING_DIMENSIONS": "65536",
    }
    arguments = ["--engine", "echo", "--model", "echo", "--kafka", real_kafka.address]
    with Stack(tmp_path_factory.mktemp("large"), arguments, env) as running:
        yield running


def test_large_lines_of_a_file_are_answered_and_are_not_in_the_log(stack: Stack, topics: Topics) -> None:
    client = stack.client()
    lines = [chat_line(f"l{n}", "echo", f"{n} ä " + "x" * size) for n, size in enumerate(SIZES)]
    lines += chat_lines(20, "echo")

    ended = wait_for_end(client, submit(client, lines).id)

    assert ended.status == "completed"
    assert_each_line_once(client, ended, lines)
    for entry, line in zip(result_lines(client, ended.output_file_id), lines, strict=True):
        answer = entry["response"]["body"]["choices"][0]["message"]["content"]
        assert answer == line["body"]["messages"][0]["content"]
    for topic in (topics.requests("echo"), topics.completions):
        records = read_topic(stack.stack_file()["kafka"], topic.name, topic.partitions)
        assert max(len(record.value() or b"") for record in records) < 256 * 1024
        assert sum("claim" in headers_of(record) for record in records) == len(SIZES) - 1


def test_line_over_the_limit_is_refused_with_its_number(stack: Stack) -> None:
    client = stack.client()
    lines = [*chat_lines(1, "echo"), chat_line("huge", "echo", "x" * (17 * MIB))]

    ended = wait_for_end(client, submit(client, lines).id)

    assert ended.status == "failed"
    (error,) = ended.errors.data
    assert error.line == 2
    assert str(16 * MIB) in error.message


def test_request_of_a_producer_is_left_in_the_store_on_its_way(stack: Stack, topics: Topics) -> None:
    bootstrap, name = stack.stack_file()["kafka"], name_of()
    text = name + "x" * (3 * MIB)
    producer = Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 4 * MIB})
    producer.produce(topics.intake.name, json.dumps(chat_line(name, "echo", text)).encode())
    assert producer.flush(30) == 0

    answer = Outsider(bootstrap, topics).answers({name})[name]

    assert json.loads(answer.value())["response"]["body"]["choices"][0]["message"]["content"] == text
    admitted = read_topic(bootstrap, topics.admitted.name, topics.admitted.partitions)
    assert max(len(record.value() or b"") for record in admitted) < 256 * 1024


def test_answer_that_fits_no_record_is_claimed_from_the_store(stack: Stack, topics: Topics) -> None:
    outsider, name = Outsider(stack.stack_file()["kafka"], topics), name_of()
    body = {"model": "echo", "input": [f"text {n}" for n in range(12)]}
    outsider.send({"custom_id": name, "method": "POST", "url": "/v1/embeddings", "body": body})
    outsider.flush()

    answer = outsider.answers({name})[name]

    claim = json.loads(headers_of(answer)["claim"])
    assert answer.value() == b""
    store = Path(urlsplit(stack.stack_file()["store"]).path)
    content = (store / claim["key"]).read_bytes()[claim["start"] : claim["start"] + claim["size"]]
    assert len(content) == claim["size"] > 4 * MIB
    assert hashlib.sha256(content).hexdigest() == claim["sha256"]
    assert len(json.loads(content)["response"]["body"]["data"]) == 12
