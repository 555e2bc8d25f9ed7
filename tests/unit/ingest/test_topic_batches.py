"""Batches by topic on a store and a view in memory: owners come and go, and each line is in one part once."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.ingest.admission.batch_record import LINE, BatchEvent
from services.ingest.admission.batch_stream import CLOSE_QUIET_S, OPEN_GRACE_S, Options
from services.ingest.admission.part_steps import PartSteps
from services.ingest.admission.stored_parts import StoredParts
from services.ingest.admission.topic_batches import TopicBatches
from services.ingest.limits import Limits, TenantLimits
from services.ingest.line_stream import LineStream
from services.ingest.quota import Quota
from services.ingest.read_model import ReadModel
from shared.batch_state import BatchView, batch_object
from shared.errors import UnavailableError
from shared.messages import BatchCancelRequested, BatchDispatched, Facet, encode
from shared.publisher import OutgoingRecord
from shared.settings import KafkaSettings, TelemetrySettings
from shared.telemetry import Telemetry
from shared.topics import Topics, facet_key
from tests.fakes import MemoryObjectStore

TOPICS = Topics(KafkaSettings(intake_partitions=1))
NOW_S = 1_800_000_000.0


@dataclass
class World:
    """The log and the store, which outlive every owner."""

    view: ReadModel
    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    answers: list[OutgoingRecord] = field(default_factory=list)
    events: list[tuple[BatchEvent, Any]] = field(default_factory=list)
    now_s: float = NOW_S
    num_facets: int = 0
    refusals: int = 0
    limits: Limits = field(default_factory=Limits)

    async def write_facet(self, batch_id: str, name: str, facet: Facet) -> None:
        if self.refusals:
            self.refusals -= 1
            raise UnavailableError("away")
        record = SimpleNamespace(
            topic=TOPICS.batches.name,
            partition=0,
            offset=self.num_facets,
            key=facet_key(batch_id, name),
            value=encode(facet),
        )
        self.num_facets += 1
        self.view.apply([record])

    async def catch_up(self) -> None:
        pass

    async def send_all(self, answers: list[OutgoingRecord]) -> None:
        self.answers += answers

    def owner(self) -> TopicBatches:
        steps = PartSteps(
            window_s=3600,
            topics=TOPICS,
            view=self.view,
            parts=StoredParts(self.store),
            log_writer=self,  # type: ignore[arg-type]
            quota=Quota(self.view, TenantLimits(self.limits, {})),
            replies=self,  # type: ignore[arg-type]
            telemetry=Telemetry("test", TelemetrySettings()),
        )
        return TopicBatches(lines_max=5, topics=TOPICS, view=self.view, feed=self, steps=steps)  # type: ignore[arg-type]

    def produce(self, *events: BatchEvent) -> None:
        for event in events:
            record = SimpleNamespace(partition=0, offset=len(self.events), timestamp=int(NOW_S * 1000))
            self.events.append((event, record))

    def deliver(self, owner: TopicBatches, start: int = 0) -> None:
        for event, record in self.events[start:]:
            owner.take(event, record)

    async def turns(self, owner: TopicBatches, seconds: float = 1.0) -> None:
        for _ in range(10):
            await owner._turn(self.now_s)
            self.now_s += seconds / 10

    def parts(self, name: str = "job") -> list[BatchView]:
        found: list[BatchView] = self.view.list_batches(tenant="default", after=None, limit=100)
        mine = [view for view in found if view.created.growth and view.created.growth.name == name]
        return sorted(mine, key=lambda view: view.created.growth.part if view.created.growth else 0)

    async def lines(self, part: BatchView) -> list[str]:
        chain = LineStream(self.store, part.created.id)
        return [json.loads(line.value or b"")["custom_id"] async for line in chain.lines()]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    found = World(ReadModel(tmp_path / "view.sqlite", TOPICS, "log"))
    monkeypatch.setattr("services.ingest.admission.topic_batches.time.time", lambda: found.now_s)
    yield found
    found.view.close()


def line(custom_id: str, name: str = "job") -> BatchEvent:
    value = json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": {}}).encode()
    return BatchEvent(LINE, "default", name, custom_id, value)


def opening(**options: Any) -> BatchEvent:
    return BatchEvent("batch-open", "default", "job", "", encode(Options(**options)))


def closing(count: int | None = None) -> BatchEvent:
    return BatchEvent("batch-close", "default", "job", "", b"" if count is None else b"%d" % count)


async def test_batch_is_created_written_and_sealed(world: World) -> None:
    owner = world.owner()
    world.produce(opening(metadata={"a": "b"}), line("1"), line("2"), line("1"))
    world.deliver(owner)
    assert owner.held() == {0: 0}
    await world.turns(owner)

    [part] = world.parts()
    assert (part.created.metadata, part.num_lines, part.sealed) == ({"a": "b"}, 2, None)
    assert owner.held() == {}
    world.produce(closing(3), line("3"))
    world.deliver(owner, 4)
    await world.turns(owner)
    [part] = world.parts()
    assert part.sealed is not None and part.count_problem is None
    assert await world.lines(part) == ["1", "2", "3"]


async def test_batch_that_nobody_opens_has_the_endpoint_of_its_first_line(world: World) -> None:
    owner = world.owner()
    world.produce(line("1"))
    world.deliver(owner)
    await world.turns(owner)
    assert world.parts() == []
    assert owner.held() == {0: 0}
    await world.turns(owner, OPEN_GRACE_S)
    [part] = world.parts()
    assert part.created.endpoint == "/v1/embeddings"
    assert part.created.expires_at - part.created.created_at == 3600


@pytest.mark.parametrize("num_delivered_again", range(5))
async def test_next_owner_goes_on_wherever_the_last_one_died(world: World, num_delivered_again: int) -> None:
    first = world.owner()
    world.produce(opening(), *(line(str(number)) for number in range(4)))
    world.deliver(first)
    await world.turns(first)
    assert first.held() == {}

    second = world.owner()
    await second.take_over({0})
    world.produce(line("4"), closing(5))
    world.deliver(second, 5 - num_delivered_again)
    await world.turns(second)
    [part] = world.parts()
    assert await world.lines(part) == list("01234")
    assert part.sealed is not None and part.count_problem is None


async def test_owner_that_does_not_know_that_it_is_none_any_more_doubles_nothing(world: World) -> None:
    first, second = world.owner(), world.owner()
    world.produce(opening(), line("0"))
    world.deliver(first)
    await world.turns(first)
    await second.take_over({0})
    world.produce(line("1"), line("2"), line("3"))
    for owner in (second, first):
        world.deliver(owner, 2)
    await world.turns(second)
    await world.turns(first)
    world.produce(line("4"), closing())
    for owner in (first, second):
        world.deliver(owner, 5)
        await world.turns(owner, CLOSE_QUIET_S * 2)

    [part] = world.parts()
    assert await world.lines(part) == list("01234")
    assert world.answers == []


async def test_parts_roll_by_lines_and_each_line_is_in_one(world: World) -> None:
    owner = world.owner()
    world.produce(opening(roll_lines=2), *(line(str(number)) for number in range(5)))
    world.deliver(owner)
    await world.turns(owner, 3)
    assert [await world.lines(part) for part in world.parts()] == [["0", "1"], ["2", "3"], ["4"]]

    owner = world.owner()
    await owner.take_over({0})
    world.deliver(owner)
    world.produce(line("5"), line("6"), closing(7))
    world.deliver(owner, 6)
    await world.turns(owner, 3)
    parts = world.parts()
    assert [await world.lines(part) for part in parts] == [["0", "1"], ["2", "3"], ["4", "5"], ["6"]]
    assert all(part.sealed for part in parts)
    assert [part.created.growth.lines_before for part in parts if part.created.growth] == [0, 2, 4, 6]
    assert parts[-1].close is not None and parts[-1].count_problem is None


async def test_more_lines_than_a_part_has_room_for_begin_another(world: World) -> None:
    owner = world.owner()
    world.produce(opening(), *(line(str(number)) for number in range(7)), closing(7))
    world.deliver(owner)
    await world.turns(owner, 2)
    assert [len(await world.lines(part)) for part in world.parts()] == [5, 2]


async def test_what_comes_after_somebody_else_ended_the_batch_is_answered(world: World) -> None:
    owner = world.owner()
    world.produce(opening(), line("0"))
    world.deliver(owner)
    await world.turns(owner)
    [part] = world.parts()
    await world.write_facet(part.created.id, "cancel", BatchCancelRequested(cancelling_at=1))
    await LineStream(world.store, part.created.id).seal()

    world.produce(line("late"), line("0"), closing(2))
    world.deliver(owner, 2)
    await world.turns(owner)
    assert [answer.key for answer in world.answers] == [b"late"]
    assert owner.held() == {}
    assert await world.lines(part) == ["0"]


async def test_batch_that_ended_unnoticed_is_forgotten(world: World) -> None:
    owner = world.owner()
    world.produce(opening())
    world.deliver(owner)
    await world.turns(owner)
    [part] = world.parts()
    await LineStream(world.store, part.created.id).seal()
    await world.write_facet(part.created.id, "dispatch", BatchDispatched(failed_at=1))
    world.now_s += 3600
    await world.turns(owner, 100)
    assert owner._batches == {}


async def test_tenant_without_room_gets_a_failed_batch(world: World) -> None:
    world.limits = Limits(open_batches=0)
    owner = world.owner()
    world.produce(opening(), line("0"))
    world.deliver(owner)
    await world.turns(owner)
    [part] = world.parts()
    told = batch_object(part)
    assert (told["status"], told["errors"]["data"][0]["code"]) == ("failed", "batch_limit_exceeded")
    assert [answer.key for answer in world.answers] == [b"0"]
    assert owner.held() == {}


async def test_step_that_fails_is_taken_again(world: World) -> None:
    owner = world.owner()
    world.refusals = 2
    world.produce(opening(), line("0"), closing(1))
    world.deliver(owner)
    await world.turns(owner)
    assert owner.held() == {0: 0}
    await world.turns(owner, 10)
    [part] = world.parts()
    assert part.sealed is not None
    assert owner.held() == {}


async def test_owner_that_died_before_it_could_tell_that_it_sealed_is_helped_out(world: World) -> None:
    first = world.owner()
    world.produce(opening(), line("0"))
    world.deliver(first)
    await world.turns(first)
    world.produce(closing())
    world.deliver(first, 2)
    await world.turns(first)
    [part] = world.parts()
    assert part.close is not None and part.sealed is None
    await LineStream(world.store, part.created.id).seal()

    second = world.owner()
    await second.take_over({0})
    world.refusals = 1
    await world.turns(second)
    assert world.parts()[0].sealed is None
    await world.turns(second, 10)
    [part] = world.parts()
    assert part.sealed is not None


async def test_line_for_a_batch_that_failed_long_ago_is_answered(world: World) -> None:
    world.limits = Limits(open_batches=0)
    first, second = world.owner(), world.owner()
    world.produce(opening())
    world.deliver(first)
    await world.turns(first)
    world.limits = Limits()
    world.produce(line("late"))
    world.deliver(second, 1)
    await world.turns(second)
    assert [answer.key for answer in world.answers] == [b"late"]


async def test_count_that_is_wrong_is_told(world: World) -> None:
    owner = world.owner()
    world.produce(opening(), line("0"), line("1"), closing(1))
    world.deliver(owner)
    await world.turns(owner, 3)
    [part] = world.parts()
    problem = part.count_problem
    assert problem is not None and problem.code == "count_mismatch"
    assert batch_object(part)["errors"]["data"][0]["param"] == "count"
