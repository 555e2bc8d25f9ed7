"""How does a process stop? A typed reason, one drain deadline, and signals that set them. SHELL.

First SIGTERM or SIGINT: stop taking work and drain. The second: leave at once.
"""

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from enum import StrEnum
from typing import Any, TypeVar

import uvloop

from shared.errors import HeadraceError, SetupError

T = TypeVar("T")

SETUP_EXIT_CODE = 2
FORCED_EXIT_CODE = 130


class StopReason(StrEnum):
    """Why a process ends; the first reason wins."""

    SHUTDOWN = "shutdown"
    FAILED = "failed"


class Deadline:
    """One budget of seconds that all steps of a drain share."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def remaining_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())


class Stop:
    """A stop that can be asked for once, with its reason. Belongs to one event loop."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self._event = asyncio.Event()

    def request(self, reason: StopReason) -> None:
        """Ask to stop; later reasons are ignored."""
        if self.reason is None:
            self.reason = reason
            self._event.set()

    @property
    def requested(self) -> bool:
        """Whether somebody asked."""
        return self.reason is not None

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the request; False when `timeout_s` passed first."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        return True


def stop_on_signals(stop: Stop) -> None:
    """Let SIGTERM and SIGINT ask for a shutdown; a second one ends the process at once."""

    def handle() -> None:
        if stop.requested:
            os._exit(FORCED_EXIT_CODE)
        stop.request(StopReason.SHUTDOWN)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle)


def run_on_loop(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, on a loop that wakes up and writes for less: a twentieth of what a row costs in all."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def run_service(run: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run a service's main coroutine; the exit code: 0 drained, 1 failed, 2 the set-up is wrong.

    What is expected to go wrong is told in one sentence, anything else with its traceback.
    """
    try:
        return run_on_loop(run())
    except BaseException as error:
        causes = list(_leaves(error))
        known = [cause for cause in causes if isinstance(cause, HeadraceError)]
        if not known:
            raise
        for cause in dict.fromkeys(str(cause) for cause in known):
            print(f"error: {cause}", file=sys.stderr, flush=True)
        return SETUP_EXIT_CODE if any(isinstance(cause, SetupError) for cause in known) else 1


# New objects between two collections, and collections of each age between two of the next. Thousands of lines in flight
# are no garbage; Python's own 700 would look at them all the time.
GC_THRESHOLDS = (20_000, 20, 20)


def settle_heap() -> None:
    """Call when a process is ready: what lives by then is not looked at again by the garbage collector.

    A full collection would otherwise stop everything for tens of milliseconds, the more often the more is in flight.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
