"""Snapshots as server-sent events: when one is sent, and when the stream ends."""

import json
from typing import Any

import pytest

from services.ingest.api import events
from services.ingest.api.events import snapshots


async def collect(states: list[dict[str, Any]], last_id: str | None = None, gone_after: int = 10**6) -> list[str]:
    looks = iter(states)
    asked = 0

    async def look() -> tuple[dict[str, Any], bool]:
        state = next(looks)
        return state, bool(state.get("over"))

    async def is_gone() -> bool:
        nonlocal asked
        asked += 1
        return asked > gone_after

    return [event.decode() async for event in snapshots("batch", look, last_id, is_gone)]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "INTERVAL_S", 0.0)


async def test_only_what_changed_is_sent_and_the_end_ends() -> None:
    found = await collect([{"n": 1}, {"n": 1}, {"n": 2}, {"n": 2, "over": True}])

    assert [json.loads(event.split("data: ")[1]) for event in found[:-1]] == [
        {"n": 1},
        {"n": 2},
        {"n": 2, "over": True},
    ]
    assert found[-1] == "event: end\ndata: {}\n\n"


async def test_client_that_has_the_snapshot_does_not_get_it_again() -> None:
    [first, *_] = await collect([{"n": 1}, {"over": True}])
    event_id = first.partition("\n")[0].removeprefix("id: ")

    found = await collect([{"n": 1}, {"n": 1, "over": True}], last_id=event_id)
    assert len(found) == 2 and '"over": true' in found[0]


async def test_client_that_is_gone_ends_the_stream() -> None:
    assert len(await collect([{"n": n} for n in range(9)], gone_after=3)) == 3


async def test_quiet_stream_gives_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_S", 0.0)
    found = await collect([{"n": 1}, {"n": 1}, {"n": 1, "over": True}])
    assert found[1].startswith(":")
