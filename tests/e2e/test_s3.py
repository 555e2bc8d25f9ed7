"""The main job with both S3 servers as store."""

import secrets
from pathlib import Path

import pytest

from tests.conftest import server
from tests.e2e.stack import Stack, assert_each_line_once, chat_lines, submit, wait_for_end
from tests.providers import ACCESS_KEY, SECRET_KEY, Server


@pytest.mark.parametrize("kind", ["minio", "versity"])
def test_batch_with_files_in_a_bucket(kafka: Server, data_dir: Path, topic_prefix: str, kind: str) -> None:
    env = {
        "HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix,
        "HEADRACE_STORE__S3_ENDPOINT": server(kind).address,
        "HEADRACE_STORE__S3_ACCESS_KEY": ACCESS_KEY,
        "HEADRACE_STORE__S3_SECRET_KEY": SECRET_KEY,
    }
    address = "memory" if kafka.provider == "memory" else kafka.address
    store = f"s3://e2e-{secrets.token_hex(4)}"
    with Stack(data_dir, ["--engine", "echo", "--kafka", address, "--store", store], env) as stack:
        client = stack.client()
        lines = chat_lines(2000, "echo")
        batch = submit(client, lines)
        stack.kill("collector-0")

        ended = wait_for_end(client, batch.id)

        assert ended.status == "completed"
        assert_each_line_once(client, ended, lines)
        assert stack.stack_file()["store"] == store
