"""How are the processes of a stack kept alive and stopped? SHELL: children by pid file, restarts, drains in order."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from cli.restarts import GOOD_LIFE_S, RestartPolicy
from shared.errors import HeadraceError
from shared.lifecycle import SETUP_EXIT_CODE

POLL_S = 0.1
READY_TIMEOUT_S = 900.0
PROBE_TIMEOUT_S = 2.0
TELL_INTERVAL_S = 5.0
READY_PROBE_INTERVAL_S = 1.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A process to run. `ready_url` answers 200 when it is ready; `stop_order` 0 stops first."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    ready_url: str = ""
    stop_order: int = 0
    restartable: bool = True


@dataclass(slots=True)
class Child:
    """A running child."""

    spec: ChildSpec
    process: subprocess.Popen[bytes]
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    restart_at_s: float | None = None
    was_ready: bool = False
    is_ready: bool = False  # in this life
    began_at_s: float = field(default_factory=time.monotonic)
    probed_at_s: float = 0.0


class GaveUp(HeadraceError):
    """A child keeps dying, or never became ready; `is_setup` when it said that the set-up is wrong."""

    def __init__(self, message: str, *, is_setup: bool = False) -> None:
        super().__init__(message)
        self.is_setup = is_setup


class Interrupted(Exception):
    """A signal asked to stop."""


class Supervisor:
    """Starts children, watches them, stops them; one instance per data directory."""

    def __init__(self, data: Path, say: Callable[[str], None], stop_timeout_s: float) -> None:
        self._run, self._logs = data / "run", data / "logs"
        for folder in (self._run, self._logs):
            folder.mkdir(parents=True, exist_ok=True)
        for stale in self._run.glob("*.pid"):
            stale.unlink()
        self._say = say
        self._stop_timeout_s = stop_timeout_s
        self._children: list[Child] = []
        self._signals = 0

    def catch_signals(self) -> None:
        """First SIGINT or SIGTERM: drain. Second: kill."""

        def handle(_number: int, _frame: object) -> None:
            self._signals += 1
            if self._signals > 1:
                self.kill_all()

        signal.signal(signal.SIGINT, handle)
        signal.signal(signal.SIGTERM, handle)

    def start(self, spec: ChildSpec, stdout: int | None = None) -> Child:
        """Start a child; its output goes to `logs/NAME.log` unless `stdout` takes it."""
        self._check_signals()
        child = Child(spec, self._spawn(spec, stdout))
        self._children.append(child)
        return child

    def wait_until_ready(self) -> None:
        """Until every child answers its `ready_url`; raises GaveUp or Interrupted."""
        began = told_at = time.monotonic()
        while True:
            waiting = {c.spec.name: reason for c in self._children if (reason := self._not_ready(c))}
            if not waiting:
                return
            summary = "; ".join(f"{name}: {reason}" for name, reason in waiting.items())
            if time.monotonic() - told_at > TELL_INTERVAL_S:
                self._say(f"waiting for {summary}")
                told_at = time.monotonic()
            if time.monotonic() - began > READY_TIMEOUT_S:
                raise GaveUp(f"not ready after {READY_TIMEOUT_S:.0f} s: {summary}")
            self.watch_once()
            time.sleep(POLL_S)

    def watch(self) -> NoReturn:
        """Keep the children alive until a signal comes; raises GaveUp or Interrupted."""
        while True:
            self.watch_once()
            time.sleep(POLL_S)

    def watch_once(self) -> None:
        """Notice deaths and start again what is due."""
        self._check_signals()
        now = time.monotonic()
        for child in self._children:
            if child.restart_at_s is not None:
                if now >= child.restart_at_s:
                    child.restart_at_s = None
                    child.began_at_s, child.is_ready = now, False
                    child.process = self._spawn(child.spec, None)
                    self._say(f"{child.spec.name} started again (pid {child.process.pid})")
            elif (code := child.process.poll()) is not None:
                self._on_death(child, code, now)
            elif not child.is_ready and now - child.probed_at_s > READY_PROBE_INTERVAL_S:
                child.probed_at_s = now
                self._not_ready(child)

    def stop_all(self) -> None:
        """SIGTERM in stop order, each stage inside the limit, then SIGKILL for what is left."""
        for order in sorted({child.spec.stop_order for child in self._children}):
            stage = [c for c in self._children if c.spec.stop_order == order and c.process.poll() is None]
            for child in stage:
                child.process.terminate()
            deadline = time.monotonic() + self._stop_timeout_s
            for child in stage:
                try:
                    child.process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    self._say(f"{child.spec.name} did not stop in {self._stop_timeout_s:.0f} s, killing it")
                    child.process.kill()
                    child.process.wait()
        for child in self._children:
            self._pid_file(child.spec).unlink(missing_ok=True)

    def kill_all(self) -> None:
        """SIGKILL for every child, at once."""
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.process.kill()

    def log_tail(self, name: str) -> str:
        """The last error line of a child's log, or its last line."""
        try:
            text = (self._logs / f"{name}.log").read_text(errors="replace")
        except OSError:
            return ""
        # The frames of an exception group are drawn with lines.
        lines = [line for raw in text.splitlines() if (line := raw.strip(" |+-"))]
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or [""])[-1].removeprefix("error: ")

    def _on_death(self, child: Child, code: int, now: float) -> None:
        name = child.spec.name
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        if code == SETUP_EXIT_CODE and not child.was_ready:
            raise GaveUp(f"{name}: {self.log_tail(name)}", is_setup=True)
        lived_s = now - child.began_at_s
        was_ready = child.is_ready if child.spec.ready_url else lived_s >= GOOD_LIFE_S
        restart_at = (
            child.policy.on_death(now, lived_s=lived_s, was_ready=was_ready) if child.spec.restartable else None
        )
        if restart_at is None:
            raise GaveUp(f"{name} died {how} and is given up: {self.log_tail(name)} (log: {self._logs / name}.log)")
        child.restart_at_s = restart_at
        self._say(f"{name} died {how}, starting it again in {restart_at - now:.1f} s")

    def _not_ready(self, child: Child) -> str:
        if not child.spec.ready_url:
            return ""
        if child.process.poll() is not None:
            return "not running"
        reason = probe(child.spec.ready_url)
        child.is_ready = child.is_ready or not reason
        child.was_ready = child.was_ready or child.is_ready
        return reason

    def _check_signals(self) -> None:
        if self._signals:
            raise Interrupted

    def _spawn(self, spec: ChildSpec, stdout: int | None) -> subprocess.Popen[bytes]:
        with (self._logs / f"{spec.name}.log").open("ab") as log:
            process = subprocess.Popen(
                list(spec.argv),
                env=dict(spec.env),
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the parent only, which stops in order
                preexec_fn=die_with_parent,
            )
        self._pid_file(spec).write_text(f"{process.pid}\n")
        return process

    def _pid_file(self, spec: ChildSpec) -> Path:
        return self._run / f"{spec.name}.pid"


def probe(url: str) -> str:
    """Why a `/readyz` is not 200, or an empty string."""
    try:
        with urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_S):  # noqa: S310 - our own loopback address
            return ""
    except urllib.error.HTTPError as error:
        with contextlib.suppress(ValueError):
            return ", ".join(f"{what}: {why}" for what, why in json.loads(error.read())["missing"].items())
        return f"answers {error.code}"
    except OSError:
        return "starting"


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PARENT = os.getpid()


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills the child when its parent dies, so a killed parent leaves nothing running."""
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != _PARENT:
        os._exit(1)
