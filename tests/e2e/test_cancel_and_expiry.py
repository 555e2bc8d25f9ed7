"""A batch ends by cancel or by deadline: what was answered is in the files, every other line says why it was not."""

import time
from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.e2e.stack import Stack, assert_each_line_once, chat_lines, result_lines, submit, wait_for_end
from tests.providers import Server

ENV = {
    "HEADRACE_KAFKA__TOPIC_PREFIX": "ends.",
    "HEADRACE_INFERENCE__ECHO__LATENCY_S": "0.1",
    "HEADRACE_INFERENCE__WINDOW": "8",
    "HEADRACE_INGEST__COMPLETION_WINDOW_S": "6",
    "HEADRACE_INGEST__OUTSTANDING_LINES_PER_BATCH": "50",
}


@pytest.fixture(scope="module")
def stack(kafka: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    address = "memory" if kafka.provider == "memory" else kafka.address
    with Stack(tmp_path_factory.mktemp("ends"), ["--engine", "echo", "--kafka", address], ENV) as started:
        yield started


@pytest.fixture(scope="module")
def client(stack: Stack) -> OpenAI:
    return stack.client()


def wait_for_progress(client: OpenAI, batch_id: str) -> None:
    deadline = time.monotonic() + 60
    while client.batches.retrieve(batch_id).request_counts.completed == 0:  # type: ignore[union-attr]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_cancel_midway_keeps_what_was_answered(client: OpenAI) -> None:
    lines = chat_lines(2000, "echo")
    batch = submit(client, lines)
    wait_for_progress(client, batch.id)

    answer = client.batches.cancel(batch.id)

    assert answer.status == "cancelling"
    assert answer.cancelling_at is not None
    ended = wait_for_end(client, batch.id)
    assert ended.status == "cancelled"
    assert ended.cancelled_at is not None
    assert 0 < ended.request_counts.completed < len(lines)
    assert_each_line_once(client, ended, lines)
    errors = result_lines(client, ended.error_file_id)
    assert {entry["error"]["code"] for entry in errors} == {"batch_cancelled"}
    assert all(entry["response"] is None for entry in errors)
    assert client.batches.cancel(batch.id).status == "cancelled"


def test_cancel_right_after_create_ends_as_cancelled(client: OpenAI) -> None:
    batch = submit(client, chat_lines(300, "echo"))

    assert client.batches.cancel(batch.id).status == "cancelling"

    assert wait_for_end(client, batch.id).status == "cancelled"


def test_deadline_ends_the_batch_as_expired_with_partial_output(client: OpenAI) -> None:
    lines = chat_lines(2000, "echo")

    ended = wait_for_end(client, submit(client, lines).id)

    assert ended.status == "expired"
    assert ended.expired_at >= ended.expires_at
    assert 0 < ended.request_counts.completed < len(lines)
    assert ended.request_counts.failed == 0
    assert_each_line_once(client, ended, lines)
    assert {e["error"]["code"] for e in result_lines(client, ended.error_file_id)} == {"batch_expired"}


def test_input_file_deleted_while_the_batch_runs_harms_nothing(client: OpenAI) -> None:
    lines = chat_lines(1000, "echo")
    batch = submit(client, lines)
    wait_for_progress(client, batch.id)

    client.files.delete(batch.input_file_id)
    client.batches.cancel(batch.id)

    ended = wait_for_end(client, batch.id)
    assert ended.status == "cancelled"
    assert_each_line_once(client, ended, lines)
