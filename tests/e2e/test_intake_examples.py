"""The short programs in `examples/intake/`, each in its language, against a running stack and the broker it has."""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cli.local_kafka import jars_folder
from cli.up import cache_folder
from tests.conftest import skip_unexercised
from tests.e2e.stack import Stack
from tests.providers import Server

EXAMPLES = Path(__file__).parents[2] / "examples" / "intake"
NUM_REQUESTS = 10
LINES_MAX = 60
TIMEOUT_S = 300


@pytest.fixture(scope="module")
def prefix() -> str:
    return f"examples-{secrets.token_hex(3)}."


@pytest.fixture(scope="module")
def stack(kafka: Server, prefix: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    address = "memory" if kafka.provider == "memory" else kafka.address
    arguments = ["--engine", "echo", "--model", "echo", "--kafka", address]
    with Stack(tmp_path_factory.mktemp("examples"), arguments, {"HEADRACE_KAFKA__TOPIC_PREFIX": prefix}) as running:
        yield running


def run(stack: Stack, prefix: str, command: list[str], folder: Path = EXAMPLES, more: Sequence[str] = ()) -> None:
    env = os.environ | {"INTAKE_TOPIC": f"{prefix}intake", "RESULTS_TOPIC": f"{prefix}results"}
    done = subprocess.run(
        [*command, stack.stack_file()["kafka"], "echo", *more],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == NUM_REQUESTS, done.stdout + done.stderr


def need(program: str, what: str) -> str:
    path = shutil.which(program)
    if path is None:
        skip_unexercised(f"the {what} example", program)
    return str(path)


def test_batch_by_topic(stack: Stack, prefix: str) -> None:
    run(stack, prefix, [sys.executable, "batch_with_aiokafka.py"], more=[stack.url])


@pytest.mark.parametrize("name", ["with_aiokafka.py", "with_confluent.py"])
def test_python(stack: Stack, prefix: str, name: str) -> None:
    run(stack, prefix, [sys.executable, name])


def test_go(stack: Stack, prefix: str) -> None:
    run(stack, prefix, [need("go", "Go"), "run", "."], EXAMPLES / "go")


def test_java(stack: Stack, prefix: str) -> None:
    java, jars = need("java", "Java"), jars_folder(cache_folder())
    if not jars.is_dir():
        skip_unexercised("the Java example", "Maven, which fetches Kafka's client")
    run(stack, prefix, [java, "-cp", f"{jars}/*", "Requests.java"], EXAMPLES / "java")


def test_typescript(stack: Stack, prefix: str, kafka: Server) -> None:
    node = need("node", "TypeScript")
    if kafka.provider == "memory":  # it speaks newer requests only
        skip_unexercised("the TypeScript example", "a real broker")
    if not (EXAMPLES / "typescript" / "node_modules").is_dir():
        skip_unexercised("the TypeScript example", "npm, then make tests")
    run(stack, prefix, [node, "--import", "tsx", "requests.ts"], EXAMPLES / "typescript")


def test_examples_are_short() -> None:
    sources = [path for path in EXAMPLES.rglob("*") if path.suffix in {".py", ".go", ".java", ".ts"}]
    sources = [path for path in sources if "node_modules" not in path.parts]

    assert len(sources) == 6
    assert {path.name: len(path.read_text().splitlines()) for path in sources if _lines(path) >= LINES_MAX} == {}


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())
