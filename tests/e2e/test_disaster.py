"""The log is wiped and the store is intact; segments are collected; a batch is checked from the store alone."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.settings import KafkaSettings
from shared.topics import Topics
from tests.e2e.stack import (
    Stack,
    assert_each_line_once,
    chat_lines,
    result_lines,
    submit,
    wait_for_end,
)
from tests.e2e.test_faults import wait_for_progress
from tests.e2e.test_intake import Outsider
from tests.e2e.test_lost_lines import redriven
from tests.e2e.test_topic_batches import all_over, control, lines_of, send_lines, wait_for
from tests.providers import Server

SLOW = {"HEADRACE_INFERENCE__ECHO__LATENCY_S": "0.2", "HEADRACE_INFERENCE__WINDOW": "64"}


def headrace(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the CLI."""
    command = [sys.executable, "-m", "cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def segments_in(spool: Path) -> list[Path]:
    """Segments, oldest first."""
    return sorted(path for path in spool.rglob("*") if path.is_file())


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.mark.parametrize("how", ["recover", "up"])
def test_wiped_log_is_filled_from_the_store(real_kafka: Server, data_dir: Path, how: str) -> None:
    if real_kafka.provider != "jvm":
        pytest.skip("needs a broker that the stack starts itself")
    env = SLOW | {"HEADRACE_COLLECTOR__SEGMENT_AGE_S": "0.3"}
    stack = Stack(data_dir, ["--engine", "echo", "--kafka", "jvm"], env)
    with stack:
        client = stack.client()
        unused = client.files.create(file=("unused.jsonl", b'{"custom_id": "x"}\n'), purpose="batch")
        finished_lines, half_lines = chat_lines(100, "echo"), chat_lines(1500, "echo")
        finished = wait_for_end(client, submit(client, finished_lines).id)
        refused = submit(client, chat_lines(3, "another"))
        assert wait_for_end(client, refused.id).status == "failed"
        half = submit(client, half_lines)
        wait_for_progress(client, half.id, 300)
        stack.kill_everything()
        shutil.rmtree(data_dir / "kafka")
        (data_dir / "view.sqlite").unlink()
        if how == "recover":
            done = headrace("recover", "--data", str(data_dir), "--kafka", "jvm")
            assert done.returncode == 0, done.stderr
            assert "recovered 2 finished and 1 unfinished batches" in done.stdout
            again = headrace("recover", "--data", str(data_dir), "--kafka", "jvm")
            assert "recovered 0 finished and 0 unfinished batches, 0 files and 0 lines" in again.stdout

        stack.output_path.unlink()
        stack.start()

        assert client.batches.retrieve(finished.id) == finished
        assert client.batches.retrieve(refused.id).status == "failed"
        assert_each_line_once(client, finished, finished_lines)
        assert unused.id in [file.id for file in client.files.list()]
        after = client.batches.retrieve(half.id)
        assert after.request_counts is not None
        assert after.request_counts.completed >= 300, "lines in segments are not done again"
        ended = wait_for_end(client, half.id)
        assert ended.status == "completed"
        assert_each_line_once(client, ended, half_lines)
        assert redriven(stack) == 0
        checked = headrace("verify", ended.id, finished.id, "--data", str(data_dir))
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_batch_that_grows_goes_on_in_a_new_log(real_kafka: Server, data_dir: Path) -> None:
    if real_kafka.provider != "jvm":
        pytest.skip("needs a broker that the stack starts itself")
    env = SLOW | {"HEADRACE_COLLECTOR__SEGMENT_AGE_S": "0.3"}
    stack = Stack(data_dir, ["--engine", "echo", "--kafka", "jvm"], env)
    topics, name = Topics(KafkaSettings()), "grows"
    with stack:
        client = stack.client()
        outsider = Outsider(stack.stack_file()["kafka"], topics)
        send_lines(outsider, name, [f"c{n}" for n in range(600)])
        [half] = wait_for(client, name, lambda found: found and found[0].request_counts.completed > 100)
        stack.kill_everything()
        shutil.rmtree(data_dir / "kafka")
        (data_dir / "view.sqlite").unlink()
        stack.output_path.unlink()
        stack.start()

        outsider = Outsider(stack.stack_file()["kafka"], topics)
        send_lines(outsider, name, [f"c{n}" for n in range(700)])  # as a producer that starts again
        control(outsider, "batch-close", name, count=700)
        [batch] = wait_for(client, name, all_over())
        assert (batch.id, batch.status, batch.errors) == (half.id, "completed", None)
        found = [line["custom_id"] for line in lines_of(client, batch.output_file_id)]
        assert sorted(found) == sorted(f"c{n}" for n in range(700))
        checked = headrace("verify", batch.id, "--data", str(data_dir))
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_verify_notices_what_was_changed(data_dir: Path) -> None:
    env = {"HEADRACE_COLLECTOR__SEGMENT_AGE_S": "0.1", "HEADRACE_INFERENCE__ECHO__JITTER_S": "0.5"}
    with Stack(data_dir, ["--engine", "echo", "--kafka", "memory"], env) as stack:
        client = stack.client()
        batch = wait_for_end(client, submit(client, chat_lines(60, "echo")).id)
        other = wait_for_end(client, submit(client, chat_lines(60, "echo")).id)
    store = data_dir / "store"
    assert headrace("verify", batch.id, other.id, "--data", str(data_dir)).returncode == 0
    output, segments = store / "files" / batch.output_file_id, segments_in(store / "spool")

    for path in (output, segments[0]):
        original = path.read_bytes()
        path.write_bytes(original.replace(b"question 1 ", b"question 2 ", 1).replace(b'"stop"', b'"halt"', 1))
        found = headrace("verify", batch.id, other.id, "--data", str(data_dir))
        assert found.returncode == 1, found.stdout
        assert "!!" in found.stderr
        path.write_bytes(original)
    assert headrace("verify", "batch_0", "--data", str(data_dir)).returncode == 1
    manifest = store / "batches" / batch.id / "manifest.json"
    for path in (segments[0], segments[-1], manifest):
        original = path.read_bytes()
        path.unlink()
        found = headrace("verify", batch.id, other.id, "--data", str(data_dir))
        assert found.returncode == 1, found.stdout
        path.write_bytes(original)


def test_finished_segments_are_removed_and_open_ones_stay(
    real_kafka: Server, data_dir: Path, topic_prefix: str
) -> None:
    env = {
        "HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix,
        "HEADRACE_KAFKA__COMPLETIONS_PARTITIONS": "1",
        "HEADRACE_COLLECTOR__SEGMENT_RETENTION_S": "1",
        "HEADRACE_COLLECTOR__GARBAGE_INTERVAL_S": "0.5",
        "HEADRACE_COLLECTOR__SEGMENT_AGE_S": "0.2",
        **SLOW,
    }
    spool = data_dir / "store" / "spool"
    with Stack(data_dir, ["--engine", "echo", "--kafka", real_kafka.address], env) as stack:
        client = stack.client()
        for _ in range(4):
            wait_for_end(client, submit(client, chat_lines(20, "echo")).id)
        lines = chat_lines(2500, "echo")
        batch = submit(client, lines)
        wait_for_progress(client, batch.id, 400)
        wait_until(lambda: int(segments_in(spool)[0].name) > 0, "the oldest segments go")
        stack.kill("collector-0")

        ended = wait_for_end(client, batch.id)
        assert_each_line_once(client, ended, lines)
        assert headrace("verify", ended.id, "--data", str(data_dir)).returncode == 0
        again = wait_for_end(client, submit(client, chat_lines(20, "echo")).id)
        wait_until(lambda: len(segments_in(spool)) == 1, "the last segment alone stays")
        checked = headrace("verify", ended.id, again.id, "--data", str(data_dir))
        assert checked.returncode == 0, checked.stderr
        assert "only its files are checked" in checked.stdout


def test_cancelled_batch_of_several_shards_is_joined_in_input_order(
    real_kafka: Server, data_dir: Path, topic_prefix: str
) -> None:
    env = {
        "HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix,
        "HEADRACE_INGEST__BATCH_LINES_MAX": "200000",
        "HEADRACE_INGEST__EMBEDDING_INPUTS_MAX": "0",
        "HEADRACE_INGEST__OUTSTANDING_LINES_PER_BATCH": "60000",
        "HEADRACE_INGEST__OUTSTANDING_LINES_PER_TENANT": "60000",
    }
    with Stack(data_dir, ["--engine", "echo", "--kafka", real_kafka.address, "--collectors", "2"], env) as stack:
        client = stack.client()
        lines = [
            json.loads(
                f'{{"custom_id": "c{n}", "method": "POST", "url": "/v1/embeddings", '
                f'"body": {{"model": "echo", "input": "{n}", "dimensions": 1}}}}'
            )
            for n in range(60_000)
        ]
        batch = submit(client, lines, "/v1/embeddings")
        wait_for_progress(client, batch.id, 20_000)
        stack.kill("collector-0")
        client.batches.cancel(batch.id)

        ended = wait_for_end(client, batch.id, timeout_s=180)

        assert ended.status == "cancelled"
        output, errors = result_lines(client, ended.output_file_id), result_lines(client, ended.error_file_id)
        for entries in (output, errors):
            numbers = [int(entry["custom_id"][1:]) for entry in entries]
            assert numbers == sorted(set(numbers))
        assert len(output) + len(errors) == 60_000
        assert ended.request_counts.completed == len(output)
        assert {entry["error"]["code"] for entry in errors} <= {"batch_cancelled"}
        assert headrace("verify", ended.id, "--data", str(data_dir)).returncode == 0
