"""One small stack for all tests of the wire: a broker in memory, the echo engine, nobody needs a key."""

from collections.abc import Iterator

import httpx2
import pytest
from openai import OpenAI

from tests.e2e.stack import Stack


@pytest.fixture(scope="package")
def open_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    arguments = ["--engine", "echo", "--kafka", "memory", "--model", "echo", "--model", "other"]
    # A line takes as long as its text has words, so that a test can have a slow one.
    env = {"HEADRACE_INFERENCE__ECHO__LATENCY_PER_TOKEN_S": "0.01", "HEADRACE_COLLECTOR__SEGMENT_AGE_S": "0.2"}
    with Stack(tmp_path_factory.mktemp("contract"), arguments, env) as started:
        yield started


@pytest.fixture
def http(open_stack: Stack) -> Iterator[httpx2.Client]:
    """A client that does nothing on its own."""
    with httpx2.Client(base_url=open_stack.url, timeout=30) as client:
        yield client


@pytest.fixture
def client(open_stack: Stack) -> OpenAI:
    """The unchanged SDK."""
    return open_stack.client()
