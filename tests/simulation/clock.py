"""A deterministic event loop whose time is a number: waiting costs nothing, and every run of a seed is the same."""

import asyncio
import time
from asyncio import base_events
from collections.abc import Callable
from typing import Any

EPOCH_S = 1_800_000_000.0


class Deadlock(AssertionError):
    """Nothing is ready and nothing is due: the simulated system would wait for ever."""


class _Jump:
    """Stands in for the selector: instead of sleeping it moves the clock."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Deadlock("nothing is ready and nothing is due")
        self._loop.now_s += timeout
        return []

    def close(self) -> None:
        pass


class VirtualLoop(base_events.BaseEventLoop):
    """An event loop without sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.skew_s = 0.0
        self._selector = _Jump(self)
        self._clock_resolution = 1e-9
        self.set_exception_handler(lambda _loop, _context: None)

    def time(self) -> float:
        return self.now_s

    def _process_events(self, _events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def run_virtually(main: Callable[[], Any]) -> Any:
    """Run a coroutine on a loop of its own; the clocks of `time` are the loop's meanwhile."""
    loop = VirtualLoop()
    real = time.time, time.time_ns, time.monotonic
    time.time = lambda: EPOCH_S + loop.now_s + loop.skew_s
    time.time_ns = lambda: int((EPOCH_S + loop.now_s + loop.skew_s) * 1e9)
    time.monotonic = lambda: loop.now_s
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main())
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=60))
        time.time, time.time_ns, time.monotonic = real
        asyncio.set_event_loop(None)
        loop.close()
