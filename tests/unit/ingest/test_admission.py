"""Admission with a log in memory: every record has one outcome, and repeated requests have none."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import TopicPartition

from services.ingest.admission.admission import Admission
from services.ingest.admission.batch_record import BatchEvent
from services.ingest.admission.group_log import Held, TakeOver
from services.ingest.admission.intake_record import IntakeRules
from services.ingest.admission.settings import IntakeBlock
from services.ingest.limits import Limits, TenantLimits
from shared.claim_store import ClaimStore
from shared.errors import UnavailableError
from shared.lifecycle import Stop, StopReason
from shared.object_store import ObjectStore
from shared.publisher import OutgoingRecord
from shared.record_headers import read_request_headers
from shared.settings import KafkaSettings, TelemetrySettings
from shared.telemetry import Telemetry
from shared.topics import Topics
from tests.fakes import MemoryObjectStore

TOPICS = Topics(KafkaSettings(intake_partitions=2, request_partitions=3))
RULES = IntakeRules(
    tenant="default",
    believes_tenant_header=True,
    reply_topics=frozenset({"answers"}),
    line_bytes_max=10_000,
    window_s=3600,
    window_s_max=7200,
    endpoints=frozenset({"/v1/completions"}),
    pool_of={"m": "m"}.get,
)


@dataclass
class Rec:
    topic: str
    partition: int
    offset: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    key: bytes | None = None
    timestamp: int = 0


@dataclass
class Batches:
    """What batches by topic are told."""

    events: list[tuple[BatchEvent, int]] = field(default_factory=list)
    taken_over: set[int] = field(default_factory=set)
    is_full: bool = False

    def take(self, event: BatchEvent, record: Rec) -> None:
        self.events.append((event, record.partition))

    async def take_over(self, partitions: set[int]) -> None:
        self.taken_over = partitions

    async def run(self, stop: Stop) -> None:
        await stop.wait()


@dataclass
class World:
    """What is published to `admitted` comes back, as from the broker."""

    published: list[OutgoingRecord] = field(default_factory=list)
    waiting: list[Rec] = field(default_factory=list)
    handed_out: list[Rec] = field(default_factory=list)
    num_finished: int = 0
    refusals: int = 0
    stop: Stop = field(default_factory=Stop)
    take_over: TakeOver | None = None
    batches: Batches = field(default_factory=Batches)
    joined: bool = True
    left_out: list[str] = field(default_factory=list)

    def new_log(self, take_over: TakeOver, _held: Held) -> Any:
        self.take_over = take_over
        return self

    async def poll(self, *, without: str, **_: int) -> list[Rec]:
        self.left_out.append(without)
        if not self.waiting:
            self.stop.request(StopReason.SHUTDOWN)
        self.handed_out, self.waiting = self.waiting, []
        return self.handed_out

    def finish(self) -> None:
        self.num_finished += len(self.handed_out)
        self.handed_out = []

    async def commit(self) -> None:
        pass

    async def leave(self) -> None:
        self.waiting, self.handed_out = self.handed_out + self.waiting, []

    async def send_all(self, records: list[OutgoingRecord]) -> None:
        if self.refusals and records:
            self.refusals -= 1
            raise UnavailableError("away")
        for record in records:
            self.published.append(record)
            if record.topic == TOPICS.admitted.name:
                assert record.partition is not None
                offset = sum(p.topic == record.topic for p in self.published)
                self.waiting.append(Rec(record.topic, record.partition, offset, record.value, list(record.headers)))

    def on(self, topic: str) -> list[OutgoingRecord]:
        return [record for record in self.published if record.topic == topic]


def line(custom_id: str, **body: Any) -> bytes:
    return json.dumps(
        {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": {"model": "m"} | body}
    ).encode()


STORE = MemoryObjectStore()


async def store_of() -> ObjectStore:
    return STORE


async def admit(world: World, records: Sequence[Rec], limits: Limits | None = None) -> World:
    world.waiting = list(records)
    admission = Admission(
        settings=IntakeBlock(),
        topics=TOPICS,
        rules_of=lambda _: RULES,
        limits=TenantLimits(limits or Limits(), {}),
        new_log=world.new_log,
        new_reader=lambda: pytest.fail("there is nothing to read back"),
        batches=world.batches,  # type: ignore[arg-type]
        claims=ClaimStore(store_of, 20_000),
        publisher=world,  # type: ignore[arg-type]
        telemetry=Telemetry("test", TelemetrySettings()),
    )
    assert world.take_over is not None
    await world.take_over({TopicPartition(TOPICS.admitted.name, number): 0 for number in range(2)})
    await admission.run(world.stop)
    return world


def intake(*values: bytes | None, **headers: str) -> list[Rec]:
    pairs = [(name.replace("_", "-"), text.encode()) for name, text in headers.items()]
    return [Rec(TOPICS.intake.name, n % 2, n, value, pairs) for n, value in enumerate(values)]


async def test_request_goes_to_its_pool_with_its_own_bytes() -> None:
    world = await admit(World(), intake(line("a"), line("b")))

    forwarded = world.on(TOPICS.requests("m", "interactive").name)
    assert sorted(record.value or b"" for record in forwarded) == [line("a"), line("b")]
    headers = [read_request_headers(record.headers) for record in forwarded]
    assert {h.request for h in headers} == {"a", "b"}
    assert all(h.is_single and h.tenant == "default" for h in headers)
    assert {record.partition for record in forwarded} == {0, 1}, "spread evenly"
    assert world.num_finished == 4, "two records, in two steps"


async def test_lines_of_batches_stay_in_the_log_while_too_many_wait_to_be_written() -> None:
    full = World(batches=Batches(is_full=True))
    await admit(full, intake(line("a")))
    assert set(full.left_out) == {TOPICS.batch_events.name}
    assert full.on(TOPICS.requests("m", "interactive").name), "others do not wait"
    assert set((await admit(World(), intake(line("b")))).left_out) == {""}


async def test_repeated_request_is_forwarded_once_and_another_tenants_is_not_the_same() -> None:
    records = intake(line("a"), line("a"), line("a", again=True)) + intake(line("a"), tenant="other")

    world = await admit(World(), records)

    forwarded = [read_request_headers(r.headers) for r in world.on(TOPICS.requests("m", "interactive").name)]
    assert sorted(h.tenant for h in forwarded) == ["default", "other"]


async def test_class_batch_goes_among_the_lines_of_batches() -> None:
    world = await admit(World(), [Rec(TOPICS.intake.name, 0, 0, line("a"), [("class", b"batch")])])

    assert len(world.on(TOPICS.requests("m", "batch").name)) == 1


async def test_every_bad_record_has_one_outcome() -> None:
    world = await admit(World(), intake(b"garbage", None, line("a", model="unknown"), b"[]"))

    assert len(world.on(TOPICS.dlq.name)) == 3
    (answer,) = world.on(TOPICS.results.name)
    assert json.loads(answer.value or b"")["error"]["code"] == "model_not_found"
    assert len(world.published) == 4


async def test_refusal_goes_to_the_reply_topic_that_was_asked_for() -> None:
    world = await admit(World(), intake(line("a", model="unknown"), reply_topic="answers"))

    (answer,) = world.on("answers")
    assert answer.key == b"a"


async def test_more_than_the_quota_is_answered() -> None:
    world = await admit(World(), intake(*(line(str(n)) for n in range(5))), Limits(intake_per_minute=2))

    assert len(world.on(TOPICS.requests("m", "interactive").name)) == 2
    answers = [json.loads(record.value or b"") for record in world.on(TOPICS.results.name)]
    assert [answer["error"]["code"] for answer in answers] == ["rate_limit_exceeded"] * 3


async def test_nothing_is_finished_that_was_not_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.ingest.admission.admission.FAULT_BACKOFF_S", 0.0)

    world = await admit(World(refusals=1), intake(line("a")))

    assert len(world.on(TOPICS.requests("m", "interactive").name)) == 1
    assert world.num_finished == 2


async def test_admitted_record_that_nobody_of_ours_wrote_is_a_dead_letter() -> None:
    world = await admit(World(), [Rec(TOPICS.admitted.name, 0, 0, line("a"))])

    (letter,) = world.on(TOPICS.dlq.name)
    assert dict(letter.headers)["dlq.error"] == b"unreadable"
