"""Simulated processes: what can fail does, at every operation, by the seed.

Every operation passes `Process.operate`: there a process may be killed before or after the effect, be frozen for
longer than its session, or get an error although the effect took place. A killed process has no further effect.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

SESSION_S = 10.0
T = TypeVar("T")


class Killed(BaseException):
    """kill -9: nothing after it runs."""


@dataclass
class Faults:
    """How likely each fault is at one operation, and how many are left in this run."""

    rng: random.Random
    left: int
    rate: float
    freeze_share: float = 0.05

    def strikes(self, share: float) -> bool:
        """Whether a fault with this share of the rate strikes now."""
        if self.left <= 0 or self.rng.random() >= self.rate * share:
            return False
        self.left -= 1
        return True


class Process:
    """A simulated process: its tasks die together, and its operations fail after that."""

    def __init__(self, name: str, faults: Faults) -> None:
        self.name, self.faults = name, faults
        self.is_dead = False
        self.frozen_until = 0.0
        self.task: asyncio.Task[None] | None = None
        self.at_death: list[Callable[[], None]] = []

    def start(self, main: Coroutine[Any, Any, None]) -> None:
        """Run the process's main coroutine."""
        self.task = asyncio.get_running_loop().create_task(main)

    def kill(self) -> None:
        """kill -9."""
        self.is_dead = True
        if self.task is not None:
            self.task.cancel()
        for tell in self.at_death:
            tell()

    async def operate(self, effect: Callable[[], T], *, on_lost: BaseException | None = None, danger: float = 1.0) -> T:
        """Do one I/O operation, with everything that can happen to one.

        `on_lost` is what a lost answer looks like; `danger` makes a kill after the effect likelier.
        """
        await self._breathe()
        faults, rng = self.faults, self.faults.rng
        if faults.strikes(0.3):
            self.kill()
            raise Killed
        if on_lost is not None and faults.strikes(0.25):
            raise on_lost  # it never arrived
        result = effect()
        if faults.strikes(0.15 * danger):
            self.kill()
            raise Killed
        if on_lost is not None and faults.strikes(0.25):
            raise on_lost  # it arrived, the answer did not
        if faults.strikes(faults.freeze_share):
            self.frozen_until = asyncio.get_running_loop().time() + rng.choice([1.0, 3 * SESSION_S])
            await self._breathe()
        return result

    async def _breathe(self) -> None:
        loop = asyncio.get_running_loop()
        if self.is_dead:
            raise Killed
        if (wait_s := self.frozen_until - loop.time()) > 0:
            await asyncio.sleep(wait_s)
        elif self.faults.rng.random() < 0.1:
            await asyncio.sleep(self.faults.rng.random() * 0.05)  # reorders what runs at the same time
        else:
            return
        if self.is_dead:
            raise Killed
