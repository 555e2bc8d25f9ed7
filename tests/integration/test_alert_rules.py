"""Alert rules, by the program that reads them: each rings when it should; and the pages of metrics are well made."""

import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.conftest import skip_unexercised
from tests.e2e.stack import Stack, chat_lines, submit, wait_for_end
from tests.providers import Server, binary

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
# What it has against names that are not ours to choose: OpenTelemetry's HTTP metrics, and Python's.
FOREIGN = ("http_server_", "python_", "process_")


@pytest.fixture(scope="module")
def promtool() -> Path:
    program = binary("promtool")
    if not program.is_file():
        skip_unexercised("promtool", "it is not in the cache (make tools)")
    return program


def run(promtool: Path, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(promtool), *arguments]
    return subprocess.run(
        command, cwd=PROMETHEUS, input=given, capture_output=True, text=True, timeout=120, check=False
    )


def test_rules_ring_when_they_should(promtool: Path) -> None:
    for arguments in (("check", "config", "prometheus.yaml"), ("test", "rules", "rules_test.yaml")):
        found = run(promtool, *arguments)
        assert found.returncode == 0, found.stdout + found.stderr
    rules, tests = ((PROMETHEUS / name).read_text() for name in ("rules.yaml", "rules_test.yaml"))
    alerts = {line.partition("alert: ")[2] for line in rules.splitlines() if "- alert: " in line}
    assert {alert for alert in alerts if f"alertname: {alert}\n" not in tests} == set(), (
        "each has a test in which it rings"
    )


def test_pages_of_all_processes_are_well_made(promtool: Path, kafka: Server, data_dir: Path, topic_prefix: str) -> None:
    address = "memory" if kafka.provider == "memory" else kafka.address
    env = {"HEADRACE_KAFKA__TOPIC_PREFIX": topic_prefix}
    with Stack(data_dir, ["--engine", "echo", "--kafka", address], env) as stack:
        client = stack.client()
        wait_for_end(client, submit(client, chat_lines(20, "echo")).id)
        for name, url in stack.stack_file()["metrics"].items():
            page = httpx2.get(url).text
            found = run(promtool, "check", "metrics", given=page)
            problems = [line for line in found.stderr.splitlines() if not line.startswith(FOREIGN)]
            assert not problems, (name, problems)
            assert "headrace_dependency_up{" in page
