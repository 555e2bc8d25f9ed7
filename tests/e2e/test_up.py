"""`headrace up` on a bad day: one clear sentence, exit code 2, nothing half-started; and on the in-memory broker."""

import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.local_kafka import free_port
from tests.e2e.stack import Stack, assert_each_line_once, chat_lines, submit, wait_for_end
from tests.providers import Server


def run_up(data: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "up", "--data", str(data), *arguments]
    if "--port" not in arguments:
        command += ["--port", str(free_port())]
    return subprocess.run(
        command, env=os.environ | (env or {}), capture_output=True, text=True, timeout=120, check=False
    )


def assert_refused(done: subprocess.CompletedProcess[str], text: str, data: Path) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((data / "run").glob("*.pid")), "something was left running"


@pytest.mark.parametrize(
    ("arguments", "env", "text"),
    [
        (["--engine", "vlm"], {}, "expected vllm, echo or openai"),
        (["--engine", "echo", "--kafka", "nonsense"], {}, "expected auto, jvm, memory or HOST:PORT"),
        (["--engine", "echo", "--store", "nonsense"], {}, "expected file:///DIR or s3://BUCKET"),
        (["--engine", "echo", "--store", "file:///proc/x/y"], {}, "name a writable folder"),
        (["--engine", "echo"], {"HEADRACE_PROT": "1"}, "unknown setting HEADRACE_PROT"),
        (["--engine", "echo"], {"HEADRACE_INGEST__BATCH_LINES_MAX": "no"}, "HEADRACE_INGEST__BATCH_LINES_MAX"),
        (["--engine", "echo", "--kafka", "127.0.0.1:9"], {}, "no Kafka broker answers at 127.0.0.1:9"),
        (["--engine", "echo", "--model", "a", "--model", "a"], {}, "two models have the same name"),
        (["--engine", "openai:http://127.0.0.1:9/v1"], {}, "needs --model"),
        (["--engine", "echo", "--kafka", "jvm"], {"PATH": "/nonexistent"}, "no java on the path"),
    ],
)
def test_wrong_setup_is_one_sentence(data_dir: Path, arguments: list[str], env: dict[str, str], text: str) -> None:
    assert_refused(run_up(data_dir, *arguments, env=env), text, data_dir)


def test_port_in_use(data_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run_up(data_dir, "--engine", "echo", "--port", str(taken.getsockname()[1]))

    assert_refused(done, "is in use: choose another with --port", data_dir)


def test_no_engine_at_the_url(data_dir: Path, kafka: Server, topic_prefix: str) -> None:
    address = "memory" if kafka.provider == "memory" else kafka.address
    arguments = ["--engine", "openai:http://127.0.0.1:9/v1", "--model", "m", "--kafka", address]
    done = run_up(data_dir, *arguments, env={"HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix})

    assert_refused(done, "no engine answers at http://127.0.0.1:9/v1/models", data_dir)


def test_model_folder_that_is_missing(data_dir: Path) -> None:
    done = run_up(data_dir, "--engine", "vllm", "--model", "/no/such/folder")

    assert done.returncode == 2
    assert "does not exist" in done.stderr or "no environment with vLLM" in done.stderr


def test_topics_that_do_not_match(data_dir: Path, real_kafka: Server, topic_prefix: str) -> None:
    env = {"HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix}
    with Stack(data_dir, ["--engine", "echo", "--kafka", real_kafka.address], env):
        pass

    done = run_up(
        data_dir,
        *["--engine", "echo", "--kafka", real_kafka.address],
        env=env | {"HEADRACE_KAFKA__COMPLETIONS_PARTITIONS": "7"},
    )

    assert_refused(done, "has 4 partitions, the settings say 7", data_dir)


@pytest.fixture
def overwriting_store() -> Iterator[str]:
    """An S3 server that answers 200 to every write, conditional or not."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _ok(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.send_header("etag", '"x"')
            self.end_headers()

        do_GET = do_HEAD = do_PUT = do_DELETE = _ok  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_store_without_create_only_writes(data_dir: Path, overwriting_store: str) -> None:
    env = {
        "HEADRACE_STORE__S3_ENDPOINT": overwriting_store,
        "HEADRACE_STORE__S3_ACCESS_KEY": "k",
        "HEADRACE_STORE__S3_SECRET_KEY": "s",
    }

    assert_refused(run_up(data_dir, "--engine", "echo", "--store", "s3://bucket", env=env), "If-None-Match", data_dir)


def test_two_stacks_on_one_folder(data_dir: Path) -> None:
    with Stack(data_dir, ["--engine", "echo", "--kafka", "memory"]) as running:
        done = run_up(data_dir, "--engine", "echo", "--kafka", "memory")
        assert done.returncode == 2
        assert "another 'headrace up' runs" in done.stderr
        assert running.client().models.list().data


def test_in_memory_broker_says_so_and_does_the_job(data_dir: Path) -> None:
    with Stack(data_dir, ["--engine", "echo", "--kafka", "memory", "--workers", "2"]) as stack:
        assert "IN MEMORY" in stack.output()
        client = stack.client()
        lines = chat_lines(1500, "echo")

        batch = wait_for_end(client, submit(client, lines).id)

        assert batch.status == "completed"
        assert_each_line_once(client, batch, lines)
        output = stack.output()
    assert stack.process is not None
    assert stack.process.returncode == 0
    assert "ready " in output


def test_services_start_alone_and_refuse_alone() -> None:
    for service in ("ingest", "inference", "collector"):
        done = subprocess.run(
            [sys.executable, "-m", f"services.{service}"],
            env=os.environ | {"HEADRACE_KAFKA__BOOTSTRAPS": "x", "HEADRACE_INFERENCE__ENGINE": "echo"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert "unknown setting HEADRACE_KAFKA__BOOTSTRAPS" in done.stderr


def test_in_memory_broker_forgets_but_the_store_does_not(data_dir: Path) -> None:
    env = {"HEADRACE_INFERENCE__ECHO__LATENCY_S": "0.2", "HEADRACE_INFERENCE__WINDOW": "8"}
    stack = Stack(data_dir, ["--engine", "echo", "--kafka", "memory"], env)
    with stack:
        client = stack.client()
        short, long = chat_lines(20, "echo"), chat_lines(400, "echo")
        finished = wait_for_end(client, submit(client, short).id)
        unfinished = submit(client, long)
        unused = client.files.create(file=("unused.jsonl", b"{}"), purpose="batch")
        assert stack.stop() == 0

        stack.output_path.unlink()
        stack.start()

        client = stack.client()
        restored = client.batches.retrieve(finished.id)
        for name in ("status", "request_counts", "usage", "output_file_id", "completed_at", "created_at"):
            assert getattr(restored, name) == getattr(finished, name), name
        assert_each_line_once(client, finished, short)
        assert client.files.retrieve(finished.input_file_id).status == "processed"
        again = wait_for_end(client, unfinished.id)
        assert again.status == "completed"
        assert_each_line_once(client, again, long)
        assert unused.id in [file.id for file in client.files.list()]
