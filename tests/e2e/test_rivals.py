"""Two of a kind by mistake, frozen processes, a dead broker, and records that nobody should have written."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from openai import OpenAI

from cli.local_kafka import free_port
from shared.record_headers import CompletionHeaders, completion_headers
from shared.settings import KafkaSettings
from shared.topics import Topics
from tests.e2e.stack import Stack, assert_each_line_once, chat_lines, submit, wait_for_end
from tests.providers import Server

SLOW = {"HEADRACE_INFERENCE__ECHO__LATENCY_S": "0.2", "HEADRACE_INFERENCE__WINDOW": "32"}


@contextmanager
def service(name: str, stack: Stack, prefix: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """One more process of a service on the stack's log and store."""
    content = stack.stack_file()
    settings = {
        "HEADRACE_KAFKA__BOOTSTRAP": content["kafka"],
        "HEADRACE_KAFKA__TOPIC_PREFIX": prefix,
        "HEADRACE_STORE__URL": content["store"],
        "HEADRACE_MODELS": json.dumps(content["models"]),
    }
    log = stack.data / "logs" / f"rival-{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", f"services.{name}"], env=os.environ | settings | env, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_second_collector_of_the_same_partitions_does_no_harm(
    real_kafka: Server, data_dir: Path, topic_prefix: str
) -> None:
    env = SLOW | {"HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix, "HEADRACE_COLLECTOR__SEGMENT_AGE_S": "0.2"}
    with Stack(data_dir, ["--engine", "echo", "--kafka", real_kafka.address], env) as stack:
        client = stack.client()
        with service("collector", stack, topic_prefix, HEADRACE_COLLECTOR__SEGMENT_AGE_S="0.15") as rival:
            for _ in range(3):
                lines = chat_lines(400, "echo")
                ended = wait_for_end(client, submit(client, lines).id)
                assert ended.status == "completed"
                assert_each_line_once(client, ended, lines)
            assert rival.poll() is None
        logs = (data_dir / "logs" / "collector-0.log").read_text() + (
            data_dir / "logs" / "rival-collector.log"
        ).read_text()
        assert "was written by another collector" in logs, "they never met"


def test_second_ingest_serves_too_and_takes_over(real_kafka: Server, data_dir: Path, topic_prefix: str) -> None:
    env = SLOW | {"HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix, "HEADRACE_KAFKA__SESSION_TIMEOUT_S": "6"}
    port = free_port()
    with (
        Stack(data_dir, ["--engine", "echo", "--kafka", real_kafka.address], env) as stack,
        service("ingest", stack, topic_prefix, HEADRACE_INGEST__PORT=str(port)) as rival,
    ):
        other = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=20)
        client = stack.client()
        batches = []
        for target in (client, other, client, other):
            lines = chat_lines(200, "echo")
            batches.append((submit(target, lines), lines))
        assert client.batches.retrieve(batches[1][0].id).id == batches[1][0].id
        rival.kill()

        for batch, lines in batches:
            ended = wait_for_end(client, batch.id)
            assert ended.status == "completed"
            assert_each_line_once(client, ended, lines)


def test_frozen_worker_and_collector_come_back_as_zombies(
    real_kafka: Server, data_dir: Path, topic_prefix: str
) -> None:
    env = SLOW | {"HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix, "HEADRACE_KAFKA__SESSION_TIMEOUT_S": "6"}
    with Stack(data_dir, ["--engine", "echo", "--kafka", real_kafka.address, "--workers", "2"], env) as stack:
        client = stack.client()
        lines = chat_lines(1500, "echo")
        batch = submit(client, lines)
        time.sleep(1)
        frozen = [int((data_dir / "run" / f"{name}.pid").read_text()) for name in ("inference-0", "collector-0")]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(9)
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)

        ended = wait_for_end(client, batch.id)

        assert ended.status == "completed"
        assert_each_line_once(client, ended, lines)


def test_killed_broker_comes_back_and_the_batch_goes_on(real_kafka: Server, data_dir: Path) -> None:
    if real_kafka.provider != "jvm":
        pytest.skip("needs a broker that the stack starts itself")
    with Stack(data_dir, ["--engine", "echo", "--kafka", "jvm"], SLOW) as stack:
        client = stack.client()
        lines = chat_lines(2000, "echo")
        batch = submit(client, lines)
        time.sleep(2)

        stack.kill("kafka")

        ended = wait_for_end(client, batch.id, timeout_s=180)
        assert ended.status == "completed"
        assert_each_line_once(client, ended, lines)


def test_foreign_records_end_as_dead_letters_and_stop_nobody(
    real_kafka: Server, data_dir: Path, topic_prefix: str
) -> None:
    topics = Topics(KafkaSettings(topic_prefix=topic_prefix))
    requests, completions = topics.requests("echo").name, topics.completions.name
    with Stack(
        data_dir, ["--engine", "echo", "--kafka", real_kafka.address], {"HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix}
    ) as stack:
        producer = Producer({"bootstrap.servers": real_kafka.address, "message.max.bytes": 5_000_000})
        good: dict[str, str | bytes | None] = {"batch": b"b", "line": b"0", "total": b"1", "deadline": b"1"}
        for partition in range(2):
            producer.produce(requests, b"garbage", partition=partition)
            producer.produce(requests, None, partition=partition)
            producer.produce(requests, b"{}", headers=good, partition=partition)
            producer.produce(requests, b"x" * 4_190_000, headers={"h": b"v" * 50_000}, partition=partition)
            producer.produce(completions, b"garbage", partition=partition)
            producer.produce(completions, b"{}\n", headers=[("kind", b"line")], partition=partition)
        stranger = CompletionHeaders(kind="line", batch_id="batch_stranger", total=1, succeeded=True)
        producer.produce(completions, b"{}\n", headers=dict(completion_headers(stranger)), partition=0)
        assert producer.flush(30) == 0

        client = stack.client()
        lines = chat_lines(300, "echo")
        ended = wait_for_end(client, submit(client, lines).id)

        assert ended.status == "completed"
        assert_each_line_once(client, ended, lines)
        letters = read_all(real_kafka.address, topics.dlq.name, at_least=12)
        assert {headers["dlq.topic"] for headers in letters} == {requests.encode(), completions.encode()}
        assert all(headers["dlq.reason"] for headers in letters)
        assert "died" not in stack.output()


def read_all(bootstrap: str, topic: str, at_least: int) -> list[dict[str, bytes]]:
    """Headers of the records on a topic with one partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "t", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[dict[str, bytes]] = []
    deadline = time.monotonic() + 30
    while len(found) < at_least and time.monotonic() < deadline:
        message = consumer.poll(1)
        if message is not None and not message.error():
            found.append({str(pair[0]): bytes(pair[1] or b"") for pair in message.headers() or []})  # type: ignore[arg-type]
    consumer.close()
    assert len(found) == at_least
    return found
