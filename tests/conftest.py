"""Servers of the run as fixtures, started on first use; which provider each came from is printed."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import providers
from tests.providers import NotAvailableError, Server

_STARTERS: dict[str, Callable[[], Server]] = {
    "kafka": providers.start_kafka,
    "minio": providers.start_minio,
    "versity": providers.start_versity,
    "jaeger": providers.start_jaeger,
}
_started: dict[str, Server] = {}
_providers: dict[str, str] = {}
_missing: dict[str, str] = {}


def server(name: str) -> Server:
    """The run's server of this name; skips the test when there is none (and fails it in CI)."""
    if name not in _started:
        try:
            _started[name] = _STARTERS[name]()
        except NotAvailableError as error:
            skip_unexercised(name, str(error))
    return _started[name]


def skip_unexercised(name: str, reason: str) -> None:
    """Skip what this machine cannot exercise; where everything was promised that is a failure."""
    _missing[name] = reason
    if os.environ.get("CI") or os.environ.get("TEST_ALL_SERVERS"):
        pytest.fail(f"{name} was promised: {reason}")
    pytest.skip(f"{name}: {reason}")


def pytest_report_header() -> list[str]:
    planned = ", ".join(f"{name}: {provider}" for name, provider in providers.plan().items())
    return [f"servers, started on first use: {planned}"]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Of a process among several: hand over what it started and what it lacked."""
    if output := getattr(session.config, "workeroutput", None):
        output["providers"] = {name: started.provider for name, started in _started.items()}
        output["missing"] = _missing


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    output = getattr(node, "workeroutput", {})
    _providers.update(output.get("providers", {}))
    _missing.update(output.get("missing", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    _providers.update({name: started.provider for name, started in _started.items()})
    for name, provider in sorted(_providers.items()):
        terminalreporter.write_line(f"server {name}: {provider}")
    if _missing:
        terminalreporter.section("not exercised on this machine")
        for name, reason in _missing.items():
            terminalreporter.write_line(f"{name}: {reason}")


def pytest_unconfigure() -> None:
    for started in reversed(_started.values()):
        started.stop()
    _started.clear()


@pytest.fixture(scope="session")
def kafka() -> Server:
    """A broker; real unless the machine has neither Docker nor Java."""
    return server("kafka")


@pytest.fixture(scope="session")
def real_kafka(kafka: Server) -> Server:
    """A broker that keeps topics' settings and its log across restarts."""
    if kafka.provider == "memory":
        skip_unexercised("a real Kafka broker", "neither a Docker engine nor Java 17 with Maven")
    return kafka


@pytest.fixture(scope="session")
def jaeger() -> Server:
    """A trace store with its query API."""
    return server("jaeger")


@pytest.fixture
def topic_prefix() -> str:
    """Names that no other test uses."""
    return f"t{secrets.token_hex(4)}."


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A folder for a stack."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder
