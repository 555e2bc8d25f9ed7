"""A real stack of processes for end-to-end tests: `headrace up` as a user starts it."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from openai import OpenAI

from cli.local_kafka import free_port
from cli.supervisor import die_with_parent

READY_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 90.0


@dataclass
class Stack:
    """`headrace up` with its options; a context manager."""

    data: Path
    arguments: list[str]
    env: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start and wait for the ready line."""
        command = [
            sys.executable,
            "-m",
            "cli",
            "up",
            "--data",
            str(self.data),
            "--port",
            str(self.port),
            *self.arguments,
        ]
        with self.output_path.open("ab") as out:
            self.process = subprocess.Popen(
                command, env=os.environ | self.env, stdout=out, stderr=out, preexec_fn=die_with_parent
            )
        self.wait_for_line(f"ready {self.url}")
        return self

    def wait_for_line(self, text: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Until the output has a line with this text."""
        deadline = time.monotonic() + timeout_s
        while text not in self.output_of_this_start():
            assert self.process is not None and self.process.poll() is None, f"stack ended:\n{self.everything()}"
            assert time.monotonic() < deadline, f"no {text!r} in {timeout_s} s:\n{self.everything()}"
            time.sleep(0.1)

    def output_of_this_start(self) -> str:
        """Output since the last start."""
        return self.output().rpartition("\nstopped\n")[2]

    def stop(self) -> int:
        """Ctrl-C, and wait for the drain; the exit code."""
        if self.process is None or self.process.poll() is not None:
            return -1 if self.process is None else self.process.returncode
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"stack did not stop:\n{self.everything()}") from None

    def kill_everything(self) -> None:
        """kill -9 of the parent; the kernel kills its children."""
        assert self.process is not None
        pids = [int(path.read_text()) for path in (self.data / "run").glob("*.pid")]
        self.process.kill()
        self.process.wait()
        deadline = time.monotonic() + 10
        while any(_is_alive(pid) for pid in pids):
            assert time.monotonic() < deadline, "children outlived their parent"
            time.sleep(0.05)

    def pid(self, name: str) -> int:
        """The process id of one child."""
        return int((self.data / "run" / f"{name}.pid").read_text())

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        os.kill(self.pid(name), signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        os.kill(self.pid(name), signal.SIGCONT)

    def health_ports(self, name: str) -> list[int]:
        """Ports of the health pages of all children whose name starts so."""
        return [
            int(variable.partition(b"=")[2])
            for path in (self.data / "run").glob(f"{name}*.pid")
            for variable in Path(f"/proc/{path.read_text().strip()}/environ").read_bytes().split(b"\0")
            if variable.startswith(b"HEADRACE_HEALTH__PORT=")
        ]

    def kill(self, name: str) -> int:
        """kill -9 of one child; its pid."""
        pid = int((self.data / "run" / f"{name}.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        return pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def output_path(self) -> Path:
        return self.data / "up.log"

    def output(self) -> str:
        return self.output_path.read_text(errors="replace")

    def everything(self) -> str:
        """Output and logs, for a failure's message."""
        logs = [
            f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in (self.data / "logs").glob("*.log")
        ]
        return "\n".join([self.output(), *logs])

    def client(self) -> OpenAI:
        """The unchanged SDK."""
        return OpenAI(base_url=self.url, api_key="unused", max_retries=5)

    def stack_file(self) -> dict[str, Any]:
        return json.loads((self.data / "run" / "stack.json").read_text())  # type: ignore[no-any-return]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def chat_line(custom_id: str, model: str, text: str) -> dict[str, Any]:
    """One request line."""
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def chat_lines(num_lines: int, model: str) -> list[dict[str, Any]]:
    """Lines whose ids and texts are unlike those of any other call."""
    tag = secrets.token_hex(3)
    return [chat_line(f"{tag}-{n}", model, f"question {n} of {tag}") for n in range(num_lines)]


def submit(client: OpenAI, lines: list[dict[str, Any]], endpoint: str = "/v1/chat/completions", **more: Any) -> Any:
    """Upload and create."""
    content = "\n".join(json.dumps(line) for line in lines).encode()
    file = client.files.create(file=("input.jsonl", content), purpose="batch")
    return submit_file(client, file.id, endpoint, **more)


def submit_file(client: OpenAI, file_id: str, endpoint: Any = "/v1/chat/completions", **more: Any) -> Any:
    """Create."""
    return client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window="24h", **more)


def wait_for_end(client: OpenAI, batch_id: str, timeout_s: float = 120.0) -> Any:
    """Poll until terminal; counts never go down on the way."""
    deadline, answered = time.monotonic() + timeout_s, 0
    while True:
        batch = client.batches.retrieve(batch_id)
        counts = batch.request_counts
        assert counts is not None
        assert counts.completed + counts.failed >= answered, "counts went down"
        answered = counts.completed + counts.failed
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        assert time.monotonic() < deadline, f"{batch} after {timeout_s} s"
        time.sleep(0.05)


def result_lines(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """Parsed lines of a result file; none when there is no file."""
    if file_id is None:
        return []
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def assert_each_line_once(client: OpenAI, batch: Any, lines: list[dict[str, Any]]) -> None:
    """V1 and V2: every custom_id is in exactly one file, in input order, and the counts are the files'."""
    output, errors = result_lines(client, batch.output_file_id), result_lines(client, batch.error_file_id)
    order = {line["custom_id"]: number for number, line in enumerate(lines)}
    found = [entry["custom_id"] for entry in output + errors]
    assert sorted(found, key=order.__getitem__) == list(order), "a line is missing or doubled"
    for entries in (output, errors):
        numbers = [order[entry["custom_id"]] for entry in entries]
        assert numbers == sorted(numbers), "not in input order"
    assert batch.request_counts.completed == len(output)
    assert batch.request_counts.total == len(lines)
