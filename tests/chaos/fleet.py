"""The processes of a chaos run: broker, store and services, each started again when it dies, as a supervisor does."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli.supervisor import die_with_parent

RESTART_AFTER_S = 0.5


@dataclass
class Child:
    """One process and how it is started."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    restart_after_s: float = RESTART_AFTER_S
    process: subprocess.Popen[bytes] | None = None
    frozen: bool = False
    died_at: float | None = None
    num_starts: int = 0
    wanted: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Start it now."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                list(self.argv),
                env=dict(self.env),
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self.num_starts += 1
        self.died_at, self.frozen = None, False

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


class Fleet:
    """All children; a thread starts again what died."""

    def __init__(self) -> None:
        self.children: dict[str, Child] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fleet", daemon=True)

    def add(self, child: Child) -> None:
        """Start a child and keep it alive."""
        self.children[child.name] = child
        child.start()

    def watch(self) -> None:
        """Begin to restart what dies."""
        self._thread.start()

    def named(self, prefix: str) -> list[Child]:
        """Children whose name starts so."""
        return [child for name, child in self.children.items() if name.startswith(prefix)]

    def kill(self, names: Sequence[str]) -> None:
        """kill -9 of several at once."""
        for name in names:
            self.children[name].send(signal.SIGKILL)

    def freeze(self, name: str) -> None:
        """SIGSTOP."""
        self.children[name].frozen = True
        self.children[name].send(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        self.children[name].frozen = False
        self.children[name].send(signal.SIGCONT)

    def stop(self, timeout_s: float) -> None:
        """SIGTERM in the order ingest, workers, collectors, servers; SIGKILL for what stays longer."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5)
        for prefixes in (("ingest",), ("inference",), ("collector",), ("kafka", "store")):
            stage = [child for prefix in prefixes for child in self.named(prefix)]
            for child in stage:
                child.send(signal.SIGCONT)
                child.send(signal.SIGTERM)
            for child in stage:
                if child.process is not None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.process.wait(timeout_s)
                    child.process.kill()
                    child.process.wait()

    def _watch(self) -> None:
        while not self._stopping.wait(0.05):
            for child in self.children.values():
                if child.process is None or child.process.poll() is None or not child.wanted:
                    continue
                now = time.monotonic()
                if child.died_at is None:
                    child.died_at = now
                elif now - child.died_at >= child.restart_after_s:
                    child.start()
