"""A whole Headrace in one event loop: real dispatcher, worker, collector, auditor and recovery, simulated ports.

`World` makes batches from a seed, keeps the processes alive while faults last, and checks the invariants of the design
from the log and the store alone when everything has come to rest.
"""

import asyncio
import json
import random
from collections import Counter
from functools import partial
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
from services.inference.class_queues import ClassQueues
from services.inference.engine_room import EngineRoom
from services.inference.heartbeat import WorkerIdentity
from services.inference.line_run import LineRunner
from services.inference.micro_batch import MicroBatches
from services.inference.window import WindowLimits
from services.inference.worker import Worker
from services.ingest.dispatcher import Dispatcher
from services.ingest.input_file import InputFile, LineRules
from services.ingest.model_pools import ModelPools
from services.ingest.pool_queues import PoolQueues
from services.ingest.sealing import Sealing
from services.ingest.settings import IngestBlock
from services.ingest.validation import Validation
from shared.claim_store import ClaimStore
from shared.errors import HeadraceError
from shared.lifecycle import Stop
from shared.messages import BatchCancelRequested, BatchCreated, Facet, StoredFile, encode
from shared.object_store import ObjectStore, cancel_key, file_key, manifest_key
from shared.publisher import Publisher
from shared.settings import TelemetrySettings
from shared.telemetry import Telemetry
from shared.topics import BATCH, facet_key
from tests.simulation.clock import EPOCH_S
from tests.simulation.group_consumer import GroupConsumer
from tests.simulation.invariants import KAFKA, TOPICS, Broken, Invariants
from tests.simulation.log import Ends, Group, GroupOffsets, Log, Producer, Reader
from tests.simulation.object_store import Store
from tests.simulation.plan import make_plan
from tests.simulation.process import Faults, Killed, Process
from tests.simulation.stand_ins import MODEL, Files, Follow, Owner, SimulatedEngine

TELEMETRY = Telemetry("simulation", TelemetrySettings())
CALM_AFTER_S = 40.0
SCRATCH = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
CLOSED_WITHIN_S = 900.0


class Checks:
    """What ingest checks an input file against."""

    def input_file(self, endpoint: str, _tenant: str, _batch_id: str) -> InputFile:
        rules = LineRules(endpoint=endpoint, lines_max=50_000, line_bytes_max=10_000)
        return InputFile(rules, {MODEL: MODEL}.get)


class World:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.plan = make_plan(self.rng)
        self.faults = Faults(self.rng, self.plan.num_faults, self.plan.fault_rate)
        if self.plan.collects_garbage and self.plan.has_rival:
            self.faults.freeze_share = 1.0  # zombies among removed segments
        self.store = Store()
        self.invariants = Invariants(self)
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
        self.invariants.check()

    def _names(self) -> list[str]:
        workers = [f"worker-{n}" for n in range(self.plan.num_workers)]
        rivals = ["rival-collector"] if self.plan.has_rival else []
        return ["ingest-0", "collector-0", *workers, *rivals, *(["ingest-1"] if self.plan.has_two_owners else [])]

    def _new_log(self, log_id: str) -> Log:
        log = Log(TOPICS, (MODEL,), log_id)
        log.on_commit, log.on_append = self.invariants.check_commit, self.invariants.note_completion
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
                input_file=StoredFile(
                    id=f"in-{n}", purpose="batch", filename="in", bytes=0, created_at=0, object_key=file_key(f"in-{n}")
                ),
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
        store, publisher = self.store.of(process), Publisher(Producer(self.log, process))
        dispatcher = Dispatcher(
            settings=IngestBlock(outstanding_lines_per_batch=4, outstanding_lines_per_tenant=6, dispatch_chunk_lines=2),
            topics=TOPICS,
            view=follow,  # type: ignore[arg-type]
            feed=follow,  # type: ignore[arg-type]
            ownership=Owner(self, process),  # type: ignore[arg-type]
            store=store,
            claims=self._claims(process),
            publisher=publisher,
            queues=PoolQueues(
                topics=TOPICS,
                view=follow,  # type: ignore[arg-type]
                group_offsets=GroupOffsets(self.log, process),  # type: ignore[arg-type]
                new_ends=partial(Ends, self.log, process),  # type: ignore[arg-type]
                worker_silence_s=10,
            ),
            pools=ModelPools((MODEL,), follow, 10),  # type: ignore[arg-type]
            validation=Validation(
                checks=Checks(),  # type: ignore[arg-type]
                concurrency=2,
                store=store,
                topics=TOPICS,
                publisher=publisher,
                feed=follow,  # type: ignore[arg-type]
                telemetry=TELEMETRY,
            ),
            sealing=Sealing(
                store=store,
                topics=TOPICS,
                publisher=publisher,
                view=follow,  # type: ignore[arg-type]
                feed=follow,  # type: ignore[arg-type]
                keeper=Files(),  # type: ignore[arg-type]
            ),
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
            num_held_max=16,
        )
        engine = SimulatedEngine(self, process)
        worker = Worker(
            identity=WorkerIdentity(process.name, MODEL, "simulated", ("/v1/completions",), 0),
            topics=TOPICS,
            assigned={BATCH: assigned},
            control=Reader(self.log, process),  # type: ignore[arg-type]
            claims=self._claims(process),
            publisher=publisher,
            room=EngineRoom(
                engine, LineRunner(engine, MODEL, TELEMETRY, 2), WindowLimits.of(0, 6), ClassQueues(MicroBatches)
            ),
            telemetry=TELEMETRY,
            on_silence=lambda _reason: None,
        )
        await worker.run(
            Stop(), drain_timeout_s=5, heartbeat_s=1000, commit_interval_s=self.rng.choice([0.5, 3.0]), silence_s=1000
        )

    def _claims(self, process: Process) -> ClaimStore:
        """Of some processes every line is large, of others none."""

        async def opened() -> ObjectStore:
            return self.store.of(process)

        return ClaimStore(opened, self.rng.choice([0, 10**6]))

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
        claims = self._claims(process)
        async with asyncio.TaskGroup() as group:
            group.create_task(open_batches.follow(reader))  # type: ignore[arg-type]
            for number in range(TOPICS.completions.partitions):
                tp = TopicPartition(TOPICS.completions.name, number)
                collector = PartitionCollector(
                    partition=number,
                    topics=TOPICS,
                    settings=settings,
                    chain=SegmentChain(store, self.log.log_id, tp.topic, number),
                    claims=claims,
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
                        claims=claims,
                        telemetry=TELEMETRY,
                    ),
                    telemetry=TELEMETRY,
                )
                group.create_task(collector.run(Stop()))

    async def _until_closed(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CLOSED_WITHIN_S
        while not set(self.batch_ids) <= set(self.invariants.closed()):
            self.invariants.check_now()
            if loop.time() > deadline:
                missing = set(self.batch_ids) - set(self.invariants.closed())
                raise Broken(f"V6: {sorted(missing)} did not close in {CLOSED_WITHIN_S:.0f} s after the last fault")
            await self.log.wait(5.0, (TOPICS.batches.name,))

    async def _while_faults_last(self, rare: list[asyncio.Task[None]]) -> None:
        """For 40 s, or until nothing is left to happen and a while has passed for late copies to do harm."""
        loop = asyncio.get_running_loop()
        while loop.time() < CALM_AFTER_S:
            if all(task.done() for task in rare) and set(self.batch_ids) <= set(self.invariants.closed()):
                await asyncio.sleep(5.0)
                return
            await asyncio.sleep(3.0)


def _unexpected(error: BaseException) -> BaseException | None:
    """The part of an error that no fault explains."""
    if isinstance(error, BaseExceptionGroup):
        return next((wrong for inner in error.exceptions if (wrong := _unexpected(inner))), None)
    if isinstance(error, Killed | asyncio.CancelledError | EndlessRebalance) or (
        isinstance(error, HeadraceError) and error.retriable
    ):
        return None
    return error
