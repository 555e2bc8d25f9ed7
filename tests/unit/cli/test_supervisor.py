"""Children: pid files, restarts, giving up, and stopping in order."""

import os
import sys
import textwrap
import time
from pathlib import Path

import pytest

from cli.local_kafka import KAFKA_VERSION
from cli.supervisor import ChildSpec, GaveUp, Supervisor

ROOT = Path(__file__).parents[3]


def spec(name: str, code: str, order: int = 0) -> ChildSpec:
    return ChildSpec(name, (sys.executable, "-c", code), dict(os.environ), stop_order=order)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(tmp_path: Path, said: list[str]) -> Supervisor:
    return Supervisor(tmp_path, said.append, stop_timeout_s=2)


def watch_until(supervisor: Supervisor, said: list[str], text: str) -> None:
    deadline = time.monotonic() + 20
    while not any(text in line for line in said):
        supervisor.watch_once()
        assert time.monotonic() < deadline, said
        time.sleep(0.02)


def test_dead_child_is_started_again_with_a_visible_line(
    supervisor: Supervisor, said: list[str], tmp_path: Path
) -> None:
    child = supervisor.start(spec("sleeper-0", "import time; time.sleep(60)"))
    pid_file = tmp_path / "run" / "sleeper-0.pid"
    first = int(pid_file.read_text())
    child.process.kill()

    watch_until(supervisor, said, "sleeper-0 started again")

    assert int(pid_file.read_text()) == child.process.pid != first
    assert "sleeper-0 died by signal 9, starting it again in 0.5 s" in said
    supervisor.stop_all()
    assert not pid_file.exists()


def test_child_that_says_the_setup_is_wrong_is_not_started_again(supervisor: Supervisor) -> None:
    supervisor.start(spec("wrong-0", "import sys; print('error: no such thing', file=sys.stderr); sys.exit(2)"))

    with pytest.raises(GaveUp, match="wrong-0: no such thing") as given_up:
        while True:
            supervisor.watch_once()
            time.sleep(0.02)
    assert given_up.value.is_setup


def test_child_that_keeps_dying_is_given_up(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.restarts.BACKOFF_BASE_S", 0.0)
    supervisor.start(spec("dying-0", "raise SystemExit(7)"))

    with pytest.raises(GaveUp, match="dying-0 died with code 7 and is given up"):
        while True:
            supervisor.watch_once()
            time.sleep(0.02)


def test_children_stop_in_order_and_a_deaf_one_is_killed(
    supervisor: Supervisor, said: list[str], tmp_path: Path
) -> None:
    polite = textwrap.dedent(f"""
        import signal, sys, time
        def leave(*_):
            open({str(tmp_path / "order")!r}, "a").write("NAME")
            sys.exit(0)
        signal.signal(signal.SIGTERM, leave)
        print("up", flush=True)
        time.sleep(60)
    """)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    supervisor.start(spec("b", polite.replace("NAME", "b"), 1))
    supervisor.start(spec("a", polite.replace("NAME", "a"), 0))
    supervisor.start(spec("deaf", deaf, 2))
    deadline = time.monotonic() + 20
    while not all((tmp_path / "logs" / f"{name}.log").read_text() for name in ("a", "b", "deaf")):
        assert time.monotonic() < deadline
        time.sleep(0.02)

    supervisor.stop_all()

    assert (tmp_path / "order").read_text() == "ab"
    assert any("deaf did not stop" in line for line in said)


def test_tool_versions_agree() -> None:
    pom = (ROOT / "deploy/local/pom.xml").read_text()
    versions = (ROOT / "deploy/local/versions.env").read_text()

    assert f"<version>{KAFKA_VERSION}</version>" in pom
    assert f"KAFKA_VERSION={KAFKA_VERSION}" in versions
