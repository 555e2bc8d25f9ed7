"""What a process depends on: asked now and then, and unknown is not healthy."""

import asyncio

import pytest

from shared import dependencies
from shared.dependencies import NOT_ASKED, STALE_S, Dependencies
from shared.errors import UnavailableError
from shared.health import readiness
from shared.settings import TelemetrySettings
from shared.telemetry import Telemetry

TELEMETRY = Telemetry("test", TelemetrySettings())


class Dependency:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.hangs = False

    async def ask(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


async def test_state_follows_the_answers_and_one_that_hangs_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "CHECK_INTERVAL_S", 0.01)
    monkeypatch.setattr(dependencies, "CHECK_TIMEOUT_S", 0.05)
    broker, store = Dependency(), Dependency()
    subject = Dependencies({"broker": broker.ask, "store": store.ask}, TELEMETRY)
    assert subject.states() == {"broker": NOT_ASKED, "store": NOT_ASKED}

    async def until(**wanted: str | None) -> None:
        async with asyncio.timeout(5):
            while subject.states() != wanted:
                await asyncio.sleep(0.01)

    watch = asyncio.create_task(subject.watch())
    await until(broker=None, store=None)
    broker.error, store.hangs = UnavailableError("no broker"), True
    await until(broker="no broker", store="no answer in 0 s")
    broker.error, store.hangs = OSError("refused"), False
    await until(broker="refused", store=None)
    watch.cancel()


async def test_answer_that_is_too_old_is_none() -> None:
    now = [100.0]
    subject = Dependencies({"store": Dependency().ask}, TELEMETRY, lambda: now[0])
    watch = asyncio.create_task(subject.watch())
    await asyncio.sleep(0.05)
    assert subject.states() == {"store": None}
    watch.cancel()
    now[0] += STALE_S + 1
    assert subject.states() == {"store": "does not answer"}


def test_page_names_everything_and_is_503_while_something_is_missing() -> None:
    good, bad = readiness({"broker": None, "store": None}), readiness({"broker": None, "store": "away"})
    assert (good.status_code, bad.status_code) == (200, 503)
    assert bad.body == (b'{"ready":false,"missing":{"store":"away"},"dependencies":{"broker":"ok","store":"away"}}')
