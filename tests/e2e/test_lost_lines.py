"""Lines that get lost in spite of all are found by proof and sent again; without a fault there are none."""

import time
import urllib.request
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from shared.settings import KafkaSettings
from shared.topics import Topics
from tests.e2e.stack import Stack, assert_each_line_once, chat_lines, submit, wait_for_end
from tests.providers import Server


def redriven(stack: Stack) -> int:
    """`headrace_lines_redriven_total` over all collectors."""
    total = 0.0
    for port in stack.health_ports("collector"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            lines = page.read().decode().splitlines()
        total += sum(float(line.split()[-1]) for line in lines if line.startswith("headrace_lines_redriven_total"))
    return int(total)


def test_requests_that_were_committed_over_are_sent_again(
    real_kafka: Server, data_dir: Path, topic_prefix: str
) -> None:
    """What a client that commits too early does: offsets past requests that nobody ever ran."""
    env = {"HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix, "HEADRACE_KAFKA__SESSION_TIMEOUT_S": "6"}
    topic = Topics(KafkaSettings(topic_prefix=topic_prefix)).requests("echo")
    with Stack(data_dir, ["--engine", "echo", "--kafka", real_kafka.address], env) as stack:
        client = stack.client()
        warm_up = chat_lines(50, "echo")
        wait_for_end(client, submit(client, warm_up).id)
        assert redriven(stack) == 0

        stack.pause("inference-0")
        time.sleep(8)  # beyond the session: the group is empty, so anybody may commit
        lines = chat_lines(300, "echo")
        batch = submit(client, lines)
        time.sleep(2)
        commit_to_the_end(real_kafka.address, topic.name, topic.partitions)
        stack.kill("inference-0")

        ended = wait_for_end(client, batch.id)
        assert ended.status == "completed"
        assert_each_line_once(client, ended, lines)
        assert redriven(stack) == 300


def commit_to_the_end(bootstrap: str, topic: str, partitions: int) -> None:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "enable.auto.commit": False})
    ends = [
        TopicPartition(topic, n, consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=10)[1])
        for n in range(partitions)
    ]
    consumer.commit(offsets=ends, asynchronous=False)
    consumer.close()
