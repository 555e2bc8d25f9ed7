"""Turns are kept apart, and nobody waits who has not been for a while."""

import asyncio
import time

import pytest

from shared.pace import Pace


async def test_turn_waits_for_the_rest_of_the_interval_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = 100.0, list[float]()

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(round(seconds, 3))
        now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    turns = Pace(0.5)

    await turns.turn()  # the first is at once
    await turns.turn()
    now += 0.2
    await turns.turn()
    now += 7
    await turns.turn()

    assert slept == [0.5, 0.3]
