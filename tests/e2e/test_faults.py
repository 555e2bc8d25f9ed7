"""Processes die in the middle of a batch: every line still ends exactly once."""

import threading
import time
from pathlib import Path

import pytest
from openai import OpenAI

from tests.e2e.stack import Stack, assert_each_line_once, chat_lines, result_lines, submit, wait_for_end
from tests.providers import Server

SLOW_ECHO = {"HEADRACE_INFERENCE__ECHO__LATENCY_S": "0.2", "HEADRACE_INFERENCE__WINDOW": "32"}
TWO_MODELS = ["--engine", "echo", "--model", "first", "--model", "second", "--workers", "3", "--collectors", "2"]


def wait_for_progress(client: OpenAI, batch_id: str, num_answered: int) -> None:
    deadline = time.monotonic() + 60
    while client.batches.retrieve(batch_id).request_counts.completed < num_answered:  # type: ignore[union-attr]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_killed_worker_and_collector_lose_and_double_nothing(
    real_kafka: Server, data_dir: Path, topic_prefix: str
) -> None:
    env = SLOW_ECHO | {"HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix}
    with Stack(data_dir, [*TWO_MODELS, "--kafka", real_kafka.address], env) as stack:
        client = stack.client()
        first, second = chat_lines(1500, "first"), chat_lines(1500, "second")
        batches = [submit(client, first), submit(client, second)]
        wait_for_progress(client, batches[0].id, 100)

        for name in ("inference-0", "collector-0", "inference-1", "collector-1"):
            stack.kill(name)
            time.sleep(0.5)

        for batch, lines in zip(batches, (first, second), strict=True):
            ended = wait_for_end(client, batch.id)
            assert ended.status == "completed"
            assert_each_line_once(client, ended, lines)
            for entry, line in zip(result_lines(client, ended.output_file_id), lines, strict=True):
                body = entry["response"]["body"]
                assert body["choices"][0]["message"]["content"] == line["body"]["messages"][0]["content"]
        assert "inference-0 died by signal 9, starting it again" in stack.output()


def test_killed_ingest_resumes_dispatch_where_it_was(real_kafka: Server, data_dir: Path, topic_prefix: str) -> None:
    env = SLOW_ECHO | {
        "HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix,
        "HEADRACE_INGEST__OUTSTANDING_LINES_PER_BATCH": "100",
        "HEADRACE_INGEST__DISPATCH_CHUNK_LINES": "20",
    }
    with Stack(data_dir, ["--engine", "echo", "--kafka", real_kafka.address], env) as stack:
        client = stack.client()
        lines = chat_lines(600, "echo")
        batch = submit(client, lines)
        wait_for_progress(client, batch.id, 100)

        stack.kill("ingest-0")

        stack.wait_for_line("ingest-0 started again")
        ended = wait_for_end(client, batch.id)
        assert_each_line_once(client, ended, lines)


@pytest.mark.parametrize("how", ["ctrl_c", "kill_9"])
def test_restart_of_everything_continues_the_batch(real_kafka: Server, data_dir: Path, how: str) -> None:
    if real_kafka.provider != "jvm":
        pytest.skip("needs a broker that the stack starts itself")
    stack = Stack(data_dir, ["--engine", "echo", "--kafka", "jvm", "--collectors", "2"], SLOW_ECHO)
    with stack:
        lines = chat_lines(1200, "echo")
        client = stack.client()
        batch = submit(client, lines)
        wait_for_progress(client, batch.id, 200)
        before = client.batches.retrieve(batch.id)
        if how == "ctrl_c":
            assert stack.stop() == 0
        else:
            stack.kill_everything()

        stack.output_path.unlink()
        stack.start()

        after = client.batches.retrieve(batch.id)
        assert after.request_counts.completed >= before.request_counts.completed  # type: ignore[union-attr]
        ended = wait_for_end(client, batch.id)
        assert ended.status == "completed"
        assert_each_line_once(client, ended, lines)


def test_second_ctrl_c_forces(real_kafka: Server, data_dir: Path, topic_prefix: str) -> None:
    env = {"HEADRACE_INFERENCE__ECHO__LATENCY_S": "60", "HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix}
    with Stack(data_dir, ["--engine", "echo", "--kafka", real_kafka.address], env) as stack:
        submit(stack.client(), chat_lines(5, "echo"))
        time.sleep(1)
        assert stack.process is not None
        threading.Timer(1.0, stack.process.terminate).start()

        began = time.monotonic()
        stack.stop()

        assert time.monotonic() - began < 15
