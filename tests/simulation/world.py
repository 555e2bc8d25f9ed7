"""A whole Headrace in one event loop: real dispatcher, worker, collector, auditor and recovery, simulated ports.

`World` makes batches from a seed, keeps the processes alive while faults last, and checks the invariants of the design
from the log and the store alone when everything has come to rest.
"""

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition

from services.collector.auditor import Auditor
from services.collector.closing import Closing
from services.collector.collector import PartitionCollector
from services.collector.finalizer import Finalizer
from services.collector.open_batches import OpenBatches
from services.collector.recovery import Recovery
from services.collector.segment_chain import SegmentChain
from services.collector.settings import CollectorBlock
from services.inference.assigned_log import AssignedLog, EndlessRebalance
from services.inference.engine import Answer, EngineRequest, EngineResult
from services.inference.engine_room import EngineRoom
from services.inference.worker import Worker, WorkerIdentity
from services.ingest.dispatcher import Dispatcher
from services.ingest.settings import IngestBlock
from shared import identifiers
from shared.batch_state import BatchView, apply_facet
from shared.errors import HeadraceError
from shared.kafka import Publisher
from shared.lifecycle import Stop
from shared.messages import (
    BatchCancelRequested,
    BatchClosed,
    BatchCreated,
    Facet,
    ShardProgressed,
    ShardRedriven,
    decode_facet,
    encode,
    read_completion_headers,
    read_request_headers,
)
from shared.object_store import cancel_key, file_key, manifest_key
from shared.settings import KafkaSettings, TelemetrySettings
from shared.telemetry import Telemetry
from shared.topics import SHARD_LINES, Topics, facet_key, num_shards, partition_of
from tests.simulation.clock import EPOCH_S
from tests.simulation.machine import (
    Faults,
    Group,
    GroupConsumer,
    GroupOffsets,
    Killed,
    Log,
    Process,
    Producer,
    Reader,
    Record,
    Store,
)

MODEL = "m"
KAFKA = KafkaSettings(batches_partitions=1, request_partitions=3, completions_partitions=2)
TOPICS = Topics(KAFKA)
TELEMETRY = Telemetry("simulation", TelemetrySettings())
CALM_AFTER_S = 40.0
SCRATCH = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
CLOSED_WITHIN_S = 900.0


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class Plan:
    """What a seed asks for."""

    sizes: list[int]
    num_workers: int
    cancels: dict[int, float]
    expiries: dict[int, float]
    commit_jump_at: float | None
    disaster_at: float | None
    clock_jump_at: float | None
    poison: tuple[int, int] | None
    fault_rate: float
    num_faults: int
    has_rival: bool
    collects_garbage: bool


def make_plan(rng: random.Random) -> Plan:
    """Most runs have a few faults of the usual kinds; some have one of the rare ones."""
    sizes = [rng.choice([1, 1, 2, 2, 3, 5, 9, 17]) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    batches = range(len(sizes))
    return Plan(
        sizes=sizes,
        num_workers=rng.choice([1, 1, 2]),
        cancels={n: rng.random() * 12 for n in batches if rng.random() < 0.15},
        expiries={n: rng.random() * 12 for n in batches if rng.random() < 0.15},
        commit_jump_at=rng.random() * 10 if rng.random() < 0.1 else None,
        disaster_at=2 + rng.random() * 10 if rng.random() < 0.08 else None,
        clock_jump_at=rng.random() * 20 if rng.random() < 0.1 else None,
        poison=(rng.randrange(len(sizes)), 0) if rng.random() < 0.05 else None,
        fault_rate=rng.choice([0.0, 0.02, 0.05, 0.1]),
        num_faults=rng.randint(0, 12),
        has_rival=rng.random() < 0.25,
        collects_garbage=rng.random() < 0.3,
    )


@dataclass
class Follow:
    """What ViewFeed and ReadModel show to the dispatcher, folded from the simulated log."""

    world: "World"
    process: Process
    caught_up: bool = True
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    position: int = 0
    views: dict[str, BatchView] = field(default_factory=dict)
    early: dict[str, list[tuple[str, Facet]]] = field(default_factory=dict)

    def open_batches(self) -> list[BatchView]:
        """As ReadModel."""
        for record in self.world.log.read(BATCHES, self.position, 10_000):
            self.position = record.offset + 1
            batch_id, _, name = (record.key or b"").decode().partition("/")
            facet = decode_facet(record.value or b"")
            view = apply_facet(self.views.get(batch_id), name, facet)
            if view is None:
                self.early.setdefault(batch_id, []).append((name, facet))
                continue
            for early_name, early in self.early.pop(batch_id, []):
                view = apply_facet(view, early_name, early) or view
            self.views[batch_id] = view
        return [view for view in self.views.values() if not view.is_terminal]

    def models_alive(self, *_: Any) -> set[str]:
        """As ReadModel."""
        return {MODEL}

    async def wait_for(self, _written: Any) -> None:
        """As ViewFeed: the log is read before every look."""
        await self.process.operate(lambda: None)


BATCHES = TopicPartition(TOPICS.batches.name, 0)


class Owner:
    """The port of Ownership: now and then two own the same."""

    def __init__(self, world: "World", process: Process) -> None:
        self._world, self._process = world, process

    def owns(self, _batch_id: str) -> bool:
        """Whether this process may dispatch."""
        return self._world.owner is self._process or self._world.rng.random() < 0.02


class SimulatedEngine:
    """Answers with the line's own text after a moment; a poison ends the process."""

    name = "simulated"
    endpoints: tuple[str, ...] = ("/v1/completions",)
    num_slots = 4

    def __init__(self, world: "World", process: Process) -> None:
        self._world, self._process = world, process

    async def answer(self, request: EngineRequest) -> EngineResult:
        self._world.num_inferences += 1
        await asyncio.sleep(self._world.rng.choice([0.0, 0.1, 0.1, 2.0]))
        if self._process.is_dead:
            raise Killed
        if b"POISON" in request.body:
            self._process.kill()
            raise Killed
        text = json.loads(request.body)["prompt"]
        status = 400 if text.endswith("7") else 200
        body = {"text": text, "n": self._world.num_inferences, "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
        return Answer(status, json.dumps(body).encode())

    async def cancel(self, _request: EngineRequest) -> None:
        pass

    async def probe(self) -> None:
        pass

    def failure(self) -> str | None:
        return None

    async def start(self) -> None:
        pass

    async def close(self, _timeout_s: float) -> None:
        pass


class World:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.plan = make_plan(self.rng)
        self.faults = Faults(self.rng, self.plan.num_faults, self.plan.fault_rate)
        if self.plan.collects_garbage and self.plan.has_rival:
            self.faults.freeze_share = 1.0  # zombies among removed segments
        self.store = Store()
        self.log = self._new_log("log-0")
        self.old_logs: list[Log] = []
        self.processes: dict[str, Process] = {}
        self.owner: Process | None = None
        self.num_inferences = 0
        self.jumped = False
        self.problems: list[str] = []
        self.is_over = False
        self.batch_ids = [f"batch_{n}" for n in range(len(self.plan.sizes))]

    async def run(self) -> None:
        """From creation to the last closed batch; raises Broken."""
        self._create_batches()
        keepers = [asyncio.create_task(self._keep_alive(name)) for name in self._names()]
        rare = [asyncio.create_task(job) for job in self._rare_events()]
        try:
            await self._while_faults_last(rare[1:])
            self.faults.left = 0
            for process in self.processes.values():
                process.frozen_until = 0.0
            await self._until_closed()
        finally:
            self.is_over = True
            for process in self.processes.values():
                process.kill()
            for task in [*keepers, *rare]:
                task.cancel()
        self.check()

    def _names(self) -> list[str]:
        workers = [f"worker-{n}" for n in range(self.plan.num_workers)]
        rivals = ["rival-collector"] if self.plan.has_rival else []
        return ["ingest-0", "collector-0", *workers, *rivals, *(["ingest-1"] if self.rng.random() < 0.1 else [])]

    def _new_log(self, log_id: str) -> Log:
        log = Log(TOPICS, (MODEL,), log_id)
        log.on_commit, log.on_append = self._check_commit, self._note_completion
        self.done: set[tuple[str, int]] = set()
        self.checked: Counter[TopicPartition] = Counter()
        return log

    def _create_batches(self) -> None:
        for n, (batch_id, size) in enumerate(zip(self.batch_ids, self.plan.sizes, strict=True)):
            lines = [self._line(n, line) for line in range(size)]
            self.store.objects[file_key(f"in-{n}")] = "\n".join(map(json.dumps, lines)).encode()
            expires_at = int(EPOCH_S + self.plan.expiries.get(n, 1e6))
            created = BatchCreated(
                id=batch_id,
                endpoint="/v1/completions",
                input_file_id=f"in-{n}",
                completion_window="24h",
                created_at=int(EPOCH_S),
                expires_at=expires_at,
            )
            self.store.objects[manifest_key(batch_id)] = encode(created)
            self._write_facet(batch_id, "created", created)

    def _line(self, batch: int, line: int) -> dict[str, Any]:
        text = "POISON" if self.plan.poison == (batch, line) else f"text {batch} {line}"
        return {
            "custom_id": f"c{line}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": MODEL, "prompt": text},
        }

    def _write_facet(self, batch_id: str, name: str, facet: Facet) -> None:
        self.log.append(TOPICS.batches.name, 0, facet_key(batch_id, name), encode(facet), ())

    def _rare_events(self) -> list[Any]:
        plan, jobs = self.plan, [self._duplicate_at_random()]
        jobs += [self._cancel(n, at) for n, at in plan.cancels.items()]
        if plan.commit_jump_at is not None:
            jobs.append(self._jump_commits(plan.commit_jump_at))
        if plan.disaster_at is not None:
            jobs.append(self._lose_the_log(plan.disaster_at))
        if plan.clock_jump_at is not None:
            jobs.append(self._jump_clock(plan.clock_jump_at))
        return jobs

    async def _cancel(self, number: int, at_s: float) -> None:
        await asyncio.sleep(at_s)
        wish = BatchCancelRequested(cancelling_at=int(EPOCH_S + at_s))
        self.store.objects.setdefault(cancel_key(self.batch_ids[number]), encode(wish))
        self._write_facet(self.batch_ids[number], "cancel", wish)

    async def _duplicate_at_random(self) -> None:
        """Somebody sends again what was sent before, requests and completions alike."""
        while self.faults.rate and asyncio.get_running_loop().time() < CALM_AFTER_S:
            await asyncio.sleep(self.rng.random() * 20)
            sources = [TopicPartition(TOPICS.completions.name, n) for n in range(2)]
            sources += [TopicPartition(TOPICS.requests(MODEL).name, n) for n in range(3)]
            for tp in sources:
                for record in list(self.log.records[tp][:20]):
                    if self.rng.random() < 0.05:
                        self.log.append(tp.topic, tp.partition, record.key, record.value, record.headers)

    async def _jump_commits(self, at_s: float) -> None:
        """What a client that commits too early does: the group's offsets pass requests that nobody ran."""
        await asyncio.sleep(at_s)
        topic = TOPICS.requests(MODEL)
        group: Group = self.log.groups[topic.name]
        for n in range(topic.partitions):
            tp = TopicPartition(topic.name, n)
            if tp in group.committed:
                group.committed[tp] = group.committed[tp]._replace(offset=self.log.end(tp), metadata="")
        self.jumped = True
        for name, process in list(self.processes.items()):
            if name.startswith("worker"):
                process.kill()

    async def _jump_clock(self, at_s: float) -> None:
        await asyncio.sleep(at_s)
        asyncio.get_running_loop().skew_s = self.rng.choice([-3600.0, 3600.0])  # type: ignore[attr-defined]

    async def _lose_the_log(self, at_s: float) -> None:
        """The whole cluster is wiped; the store is intact, and recovery fills a new log."""
        await asyncio.sleep(at_s)
        names, self.is_over = list(self.processes), True
        for process in self.processes.values():
            process.kill()
        self.old_logs.append(self.log)
        self.log = self._new_log(f"log-{len(self.old_logs)}")
        for _ in range(20):
            process = Process("recovery", self.faults)
            try:
                recovery = Recovery(
                    store=self.store.of(process),
                    topics=TOPICS,
                    publisher=Publisher(Producer(self.log, process)),
                    log_id=self.log.log_id,
                )
                await recovery.run(Reader(self.log, process))  # type: ignore[arg-type]
                break
            except (Killed, HeadraceError):
                continue
        else:
            raise Broken("recovery did not end")
        self.is_over = False
        for name in names:
            asyncio.create_task(self._keep_alive(name))  # noqa: RUF006 - ends with the run

    async def _keep_alive(self, name: str) -> None:
        """Start a process again whenever it dies, as a supervisor does."""
        while not self.is_over:
            process = self.processes[name] = Process(name, self.faults)
            mains = {
                "ingest": self._ingest,
                "worker": self._worker,
                "collector": self._collector,
                "rival": self._collector,
            }
            process.start(self._live(process, mains[name.partition("-")[0]]))
            assert process.task is not None
            await asyncio.wait({process.task})
            process.kill()
            await asyncio.sleep(self.rng.choice([0.5, 3.0]))

    async def _live(self, process: Process, main: Any) -> None:
        try:
            await main(process)
        except (Killed, HeadraceError, asyncio.CancelledError, BaseExceptionGroup) as error:
            if wrong := _unexpected(error):
                self.problems.append(f"{process.name}: {wrong!r}")

    async def _ingest(self, process: Process) -> None:
        self.owner = process
        follow = Follow(self, process)
        dispatcher = Dispatcher(
            settings=IngestBlock(outstanding_lines_per_batch=4, outstanding_lines_per_tenant=6, dispatch_chunk_lines=2),
            models=(MODEL,),
            topics=TOPICS,
            view=follow,  # type: ignore[arg-type]
            feed=follow,  # type: ignore[arg-type]
            ownership=Owner(self, process),  # type: ignore[arg-type]
            store=self.store.of(process),
            publisher=Publisher(Producer(self.log, process)),
            telemetry=TELEMETRY,
        )
        await dispatcher.run(Stop())

    async def _worker(self, process: Process) -> None:
        topic = TOPICS.requests(MODEL).name
        publisher = Publisher(Producer(self.log, process))
        assigned = AssignedLog(
            settings=KAFKA,
            topic=topic,
            new_consumer=lambda: GroupConsumer(self.log, process, topic),
            group_offsets=GroupOffsets(self.log, process),  # type: ignore[arg-type]
            window=6,
        )
        await assigned.open()
        worker = Worker(
            identity=WorkerIdentity(process.name, MODEL, "simulated", ("/v1/completions",), 0),
            topics=TOPICS,
            assigned=assigned,
            control=Reader(self.log, process),  # type: ignore[arg-type]
            publisher=publisher,
            room=EngineRoom(SimulatedEngine(self, process), MODEL, TELEMETRY, 2),
            window=6,
            telemetry=TELEMETRY,
            on_silence=lambda _reason: None,
        )
        await worker.run(
            Stop(), drain_timeout_s=5, heartbeat_s=1000, commit_interval_s=self.rng.choice([0.5, 3.0]), silence_s=1000
        )

    async def _collector(self, process: Process) -> None:
        store, publisher = self.store.of(process), Publisher(Producer(self.log, process))
        open_batches, reader = OpenBatches(TOPICS), Reader(self.log, process)
        await open_batches.load(reader)  # type: ignore[arg-type]
        settings = CollectorBlock(
            segment_bytes=self.rng.choice([1, 200, 800]),
            segment_age_s=self.rng.choice([0.1, 1.0, 4.0]),
            audit_interval_s=self.rng.choice([1.0, 5.0]),
            segment_retention_s=0.1 if self.plan.collects_garbage else 1e6,
            garbage_interval_s=0.5 if self.plan.collects_garbage else 1e6,
        )
        closing = Closing(
            finalizer=Finalizer(store, SCRATCH, 3600, TELEMETRY, 2),
            publisher=publisher,
            topics=TOPICS,
            told=open_batches.closed,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(open_batches.follow(reader))  # type: ignore[arg-type]
            for number in range(TOPICS.completions.partitions):
                tp = TopicPartition(TOPICS.completions.name, number)
                collector = PartitionCollector(
                    partition=number,
                    topics=TOPICS,
                    settings=settings,
                    chain=SegmentChain(store, self.log.log_id, tp.topic, number),
                    new_reader=lambda: Reader(self.log, process),  # type: ignore[arg-type,return-value]
                    publisher=publisher,
                    closing=closing,
                    auditor=Auditor(
                        tp=tp,
                        topics=TOPICS,
                        open_batches=open_batches,
                        group_offsets=GroupOffsets(self.log, process),  # type: ignore[arg-type]
                        publisher=publisher,
                        store=store,
                        telemetry=TELEMETRY,
                    ),
                    telemetry=TELEMETRY,
                )
                group.create_task(collector.run(Stop()))

    async def _until_closed(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CLOSED_WITHIN_S
        while not set(self.batch_ids) <= set(self._closed()):
            if self.problems:
                raise Broken(self.problems[0])
            if loop.time() > deadline:
                missing = set(self.batch_ids) - set(self._closed())
                raise Broken(f"V6: {sorted(missing)} did not close in {CLOSED_WITHIN_S:.0f} s after the last fault")
            await self.log.wait(5.0, (TOPICS.batches.name,))

    async def _while_faults_last(self, rare: list[asyncio.Task[None]]) -> None:
        """For 40 s, or until nothing is left to happen and a while has passed for late copies to do harm."""
        loop = asyncio.get_running_loop()
        while loop.time() < CALM_AFTER_S:
            if all(task.done() for task in rare) and set(self.batch_ids) <= set(self._closed()):
                await asyncio.sleep(5.0)
                return
            await asyncio.sleep(3.0)

    # What follows looks at the log and the store only.

    def _facets(self, log: Log) -> list[tuple[str, str, Facet]]:
        found = []
        for record in log.records[BATCHES]:
            batch_id, _, name = (record.key or b"").decode().partition("/")
            found.append((batch_id, name, decode_facet(record.value or b"")))
        return found

    def _closed(self) -> dict[str, BatchClosed]:
        return {batch: facet for batch, _, facet in self._facets(self.log) if isinstance(facet, BatchClosed)}

    def _check_commit(self, tp: TopicPartition, offset: int) -> None:
        """V4 and V7: nothing is committed over that has no completion."""
        if self.jumped:
            return
        for record in self.log.records[tp][self.checked[tp] : offset]:
            headers = read_request_headers(record.headers)
            if (headers.batch_id, headers.line) not in self.done:
                self.problems.append(f"V4: {tp} committed to {offset}, {record.offset} has no completion")
        self.checked[tp] = max(self.checked[tp], offset)

    def _note_completion(self, record: Record) -> None:
        if record.topic == TOPICS.completions.name:
            headers = read_completion_headers(record.headers)
            if headers.kind == "line":
                self.done.add((headers.batch_id, headers.line))

    def check(self) -> None:
        """All invariants; raises Broken with the first that does not hold."""
        if self.problems:
            raise Broken(self.problems[0])
        closed = self._closed()
        for number, batch_id in enumerate(self.batch_ids):
            self._check_batch(number, batch_id, closed[batch_id])
        self._check_progress()
        if not self.jumped and self._num_redriven():
            raise Broken(f"V8: {self._num_redriven()} lines were sent again although none was lost")

    def _num_redriven(self) -> int:
        logs = [*self.old_logs, self.log]
        return sum(f.num_lines for log in logs for _, _, f in self._facets(log) if isinstance(f, ShardRedriven))

    def _check_progress(self) -> None:
        """V2: what a reader folds never goes down and never exceeds the batch."""
        for log in [*self.old_logs, self.log]:
            for batch_id, _, facet in self._facets(log):
                size = self.plan.sizes[self.batch_ids.index(batch_id)]
                if isinstance(facet, ShardProgressed) and facet.completed + facet.failed > size:
                    raise Broken(f"V2: progress of {batch_id} exceeds its {size} lines")

    def _check_batch(self, number: int, batch_id: str, closed: BatchClosed) -> None:
        size = self.plan.sizes[number]
        output, errors = (self._result(batch_id, kind) for kind in ("output", "error"))
        if closed.total == 0:
            if output or errors or closed.status == "completed":
                raise Broken(f"V1: {batch_id} ended before it was validated and has lines")
            return
        ids = Counter(json.loads(line)["custom_id"] for line in output + errors)
        if ids != Counter(f"c{line}" for line in range(size)):
            raise Broken(f"V1: {batch_id} has {dict(ids)}, expected each of {size} lines once")
        for lines in (output, errors):
            numbers = [int(json.loads(line)["custom_id"][1:]) for line in lines]
            if numbers != sorted(numbers):
                raise Broken(f"V1: {batch_id} is not in input order")
        if (closed.completed, closed.failed + closed.not_run) != (len(output), len(errors)):
            raise Broken(f"V2: {batch_id} has {len(output)} and {len(errors)} lines, its record says {closed}")
        self._check_content(number, batch_id, closed, output, errors)

    def _check_content(
        self, number: int, batch_id: str, closed: BatchClosed, output: list[bytes], errors: list[bytes]
    ) -> None:
        """V5 and crossed answers: the first completion of each line before the end of its shard is in the files."""
        expected: dict[int, bytes] = {}
        statuses, usage = set(), 0
        for shard in range(num_shards(closed.total)):
            lines, how = self._fold_shard(batch_id, shard, closed.total)
            expected |= {line: record.value or b"" for line, record in lines.items()}
            usage += sum(read_completion_headers(record.headers).usage.output_tokens for record in lines.values())
            statuses.add(how)
        found = {
            int(json.loads(line)["custom_id"][1:]): line
            for line in output + errors
            if b"batch_cancelled" not in line and b"batch_expired" not in line
        }
        expected = {
            n: line for n, line in expected.items() if b"batch_cancelled" not in line and b"batch_expired" not in line
        }
        if found != expected:
            wrong = {n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n)}
            raise Broken(f"V5: {batch_id} lines {sorted(wrong)} are not what the log says")
        if closed.usage.output_tokens != usage:
            raise Broken(f"V2: {batch_id} reports {closed.usage.output_tokens} tokens, its lines have {usage}")
        how_ended = next((how for how in ("cancelled", "expired") if how in statuses), "completed")
        if closed.status != how_ended:
            raise Broken(f"V5: {batch_id} is {closed.status}, the log says {how_ended}")
        for line in output:
            entry = json.loads(line)
            if entry["response"]["body"]["text"] != f"text {number} {entry['custom_id'][1:]}":
                raise Broken(f"crossed answer: {line!r}")

    def _fold_shard(self, batch_id: str, shard: int, total: int) -> tuple[dict[int, Record], str]:
        """First completion of each line up to the shard's end, over all logs, oldest first."""
        lines: dict[int, Record] = {}
        key = f"{batch_id}#{shard}".encode()
        tp = TopicPartition(TOPICS.completions.name, partition_of(key, TOPICS.completions.partitions))
        # A line that was answered in a lost log counts only if a segment kept it, and then it was published again.
        for record in self.log.records[tp]:
            headers = read_completion_headers(record.headers)
            if headers.shard_id != (batch_id, shard):
                continue
            if headers.kind != "line":
                return lines, {"cancel": "cancelled", "deadline": "expired"}[headers.kind]
            lines.setdefault(headers.line, record)
            if len(lines) == min(SHARD_LINES, total - shard * SHARD_LINES):
                return lines, "completed"
        if self.old_logs and self._final_before_disaster(batch_id):
            return self._fold_old_shard(batch_id, shard, total)
        raise Broken(f"{batch_id}#{shard} is closed, but nothing in the log closes it")

    def _final_before_disaster(self, batch_id: str) -> bool:
        return not any(
            read_completion_headers(record.headers).batch_id == batch_id
            for n in range(TOPICS.completions.partitions)
            for record in self.log.records[TopicPartition(TOPICS.completions.name, n)]
        )

    def _fold_old_shard(self, batch_id: str, shard: int, total: int) -> tuple[dict[int, Record], str]:
        logs, self.log = (self.log, self.old_logs), self.old_logs[-1]
        self.old_logs = []
        try:
            return self._fold_shard(batch_id, shard, total)
        finally:
            self.log, self.old_logs = logs

    def _result(self, batch_id: str, kind: str) -> list[bytes]:
        return self.store.objects.get(file_key(identifiers.result_file_id(batch_id, kind)), b"").splitlines(True)


def _unexpected(error: BaseException) -> BaseException | None:
    """The part of an error that no fault explains."""
    if isinstance(error, BaseExceptionGroup):
        return next((wrong for inner in error.exceptions if (wrong := _unexpected(inner))), None)
    if isinstance(error, Killed | asyncio.CancelledError | EndlessRebalance) or (
        isinstance(error, HeadraceError) and error.retriable
    ):
        return None
    return error
