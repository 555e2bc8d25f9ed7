"""Entry point of a worker: chooses the engine, builds the objects, runs the Kafka side on a thread of its own."""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import sys
import time

import structlog

from services.inference.assigned_log import AssignedLog, make_group_consumer
from services.inference.class_queues import ClassQueues
from services.inference.engine import Engine
from services.inference.engine_room import EngineRoom
from services.inference.heartbeat import WorkerIdentity
from services.inference.kafka_thread import KafkaThread
from services.inference.line_run import LineRunner
from services.inference.micro_batch import MicroBatches, as_they_came, by_deadline_and_prefix
from services.inference.settings import InferenceSettings, WorkerSettings
from services.inference.window import LOOK_AHEAD_MAX, WindowLimits
from services.inference.worker import Worker
from shared.claim_store import ClaimStore
from shared.dependencies import NOT_ASKED, Dependencies
from shared.errors import SetupError
from shared.group_offsets import GroupOffsets
from shared.health import serve_health
from shared.kafka import make_producer, start_client, stop_client
from shared.lifecycle import Stop, StopReason, run_service, settle_heap, stop_on_signals
from shared.log_reader import LogReader
from shared.logs import set_up_logging
from shared.open_store import open_store
from shared.publisher import Publisher
from shared.settings import TelemetrySettings, load_settings
from shared.telemetry import Telemetry
from shared.topic_setup import prepare_topics
from shared.topics import REQUEST_CLASSES, Topics

log = structlog.get_logger(__name__)

ENGINE_CLOSE_TIMEOUT_S = 10.0
DEATH_POLL_S = 1.0
HUNG_EXIT_CODE = 70


def make_engine(settings: WorkerSettings, telemetry: TelemetrySettings) -> Engine:
    """The engine that the settings name; imports are local because each needs packages that the others do not."""
    if not settings.model:
        raise SetupError("HEADRACE_INFERENCE__MODEL is not set: name the model that this worker serves")
    match settings.engine:
        case "vllm":
            from services.inference.vllm_engine import VllmEngine

            return VllmEngine(settings, telemetry.otlp_endpoint)
        case "openai":
            from services.inference.openai_engine import OpenAIEngine

            return OpenAIEngine(settings)
        case "echo":
            from services.inference.echo_engine import EchoEngine

            return EchoEngine(settings.model, settings.echo)


def leave_hung_process(reason: str) -> None:
    """End a process whose loop or engine does not answer: nothing can be drained, the log has what is unfinished."""
    log.error("worker ends because its engine hangs", reason=reason)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(HUNG_EXIT_CODE)


class WorkerProcess:
    """The two loops of a worker and the stop that joins them."""

    def __init__(self, settings: InferenceSettings) -> None:
        self._settings = settings
        self._worker = settings.inference
        self._topics = Topics(settings.kafka)
        self._stop = Stop()
        self._assigned: tuple[AssignedLog, ...] = ()
        self._room: EngineRoom | None = None
        self._dependencies: Dependencies | None = None
        self._kafka_stop: tuple[asyncio.AbstractEventLoop, Stop] | None = None

    async def run(self) -> int:
        """Start, work, drain; the exit code."""
        stop_on_signals(self._stop)
        telemetry = Telemetry("inference", self._settings.telemetry, serve_metrics=True)
        engine = make_engine(self._worker, self._settings.telemetry)
        async with serve_health(self._settings.health, self._needs):
            try:
                await prepare_topics(self._settings.kafka, self._topics.all_for((self._worker.model,)))
                await engine.start()
                return await self._serve(engine, telemetry)
            finally:
                await engine.close(ENGINE_CLOSE_TIMEOUT_S)
                telemetry.close()

    async def _serve(self, engine: Engine, telemetry: Telemetry) -> int:
        worker = self._worker
        runner = LineRunner(
            engine,
            worker.model,
            telemetry,
            worker.transient_tries,
            duplicate_errors=self._settings.contract.error_lines == "duplicated",
        )
        order = by_deadline_and_prefix if worker.order_by_prefix else as_they_came
        limits = WindowLimits.of(engine.num_slots, worker.window)
        room = EngineRoom(engine, runner, limits, ClassQueues(lambda: MicroBatches(order)))
        self._room = room
        thread = KafkaThread(self._kafka_side(engine, room, telemetry))
        async with asyncio.TaskGroup() as group:
            watchers = [
                group.create_task(self._watch_engine(engine, room)),
                group.create_task(self._pass_stop_on()),
                group.create_task(room.adapt()),
            ]
            await thread.ended.wait()
            for watcher in watchers:
                watcher.cancel()
        if thread.error is not None:
            raise thread.error
        return 1 if self._stop.reason is StopReason.FAILED else 0

    async def _watch_engine(self, engine: Engine, room: EngineRoom) -> None:
        while not self._stop.requested:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEATH_POLL_S):
                    await room.dead.wait()
            reason = room.failure or engine.failure()
            if reason:
                log.error("worker stops because its engine failed", reason=reason)
                self._stop.request(StopReason.FAILED)

    async def _pass_stop_on(self) -> None:
        await self._stop.wait()
        while self._kafka_stop is None:
            await asyncio.sleep(0.05)
        loop, stop = self._kafka_stop
        assert self._stop.reason is not None
        loop.call_soon_threadsafe(stop.request, self._stop.reason)

    async def _kafka_side(self, engine: Engine, room: EngineRoom, telemetry: Telemetry) -> None:
        kafka, store, worker = self._settings.kafka, self._settings.store, self._worker
        stop = Stop()
        self._kafka_stop = (asyncio.get_running_loop(), stop)
        producer = make_producer(kafka)
        await start_client(producer, kafka)
        publisher = Publisher(producer, telemetry)
        self._dependencies = Dependencies({"broker": publisher.ask_broker}, telemetry)
        watch = asyncio.create_task(self._dependencies.watch(), name="dependencies")
        limits = WindowLimits.of(engine.num_slots, worker.window)
        group_offsets, control = GroupOffsets(kafka), LogReader(kafka)
        claims = ClaimStore(lambda: open_store(store), store.inline_bytes_max)
        assigned = {name: self._assigned_log(name, group_offsets, limits) for name in REQUEST_CLASSES}
        try:
            self._assigned = tuple(assigned.values())
            settle_heap()
            identity = WorkerIdentity(worker.worker_id, worker.model, engine.name, engine.endpoints, int(time.time()))
            runner = Worker(
                identity=identity,
                topics=self._topics,
                assigned=assigned,
                control=control,
                claims=claims,
                publisher=publisher,
                room=room,
                telemetry=telemetry,
                on_silence=leave_hung_process,
            )
            await runner.run(
                stop,
                drain_timeout_s=self._settings.drain_timeout_s,
                heartbeat_s=worker.heartbeat_s,
                commit_interval_s=worker.commit_interval_s,
                silence_s=worker.engine_silence_s,
            )
        finally:
            watch.cancel()
            await control.close()
            await claims.close()
            for log_of_class in assigned.values():
                await log_of_class.close(is_clean=stop.reason is StopReason.SHUTDOWN)
            await group_offsets.close()
            await stop_client(producer)

    def _assigned_log(self, request_class: str, group_offsets: GroupOffsets, limits: WindowLimits) -> AssignedLog:
        """The group of a topic has its name."""
        kafka, worker = self._settings.kafka, self._worker
        topic = self._topics.requests(worker.model, request_class).name
        instance_id = worker.worker_id if worker.static_member else None
        return AssignedLog(
            settings=kafka,
            topic=topic,
            new_consumer=lambda: make_group_consumer(kafka, topic, instance_id, request_class),
            group_offsets=group_offsets,
            num_held_max=limits.cap + max(limits.cap, LOOK_AHEAD_MAX),
        )

    def _needs(self) -> dict[str, str | None]:
        if self._dependencies is None:
            return {"engine": "loading" if self._room is None else None, "broker": NOT_ASKED}
        joined = bool(self._assigned) and all(each.joined for each in self._assigned)
        return {
            **self._dependencies.states(),
            "engine": self._room.failure if self._room else "loading",
            "group": None if joined else "has not joined its group yet",
            "worker": "stopping" if self._stop.requested else None,
        }


def check(settings: InferenceSettings) -> None:
    """What can be known about the engine and its model before anything starts; raises SetupError."""
    worker = settings.inference
    make_engine(worker, settings.telemetry)
    if worker.engine == "vllm":
        from services.inference.vllm_engine import check_model

        check_model(worker.model_path or worker.model)


async def run() -> int:
    """Run a worker, or with `--check` only look whether it could run."""
    parser = argparse.ArgumentParser(prog="python -m services.inference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="check settings and model, then exit")
    arguments = parser.parse_args()
    settings = load_settings(InferenceSettings)
    if arguments.check:
        check(settings)
        return 0
    set_up_logging(settings.telemetry, "inference")
    return await WorkerProcess(settings).run()


def main() -> int:
    """Process entry."""
    return run_service(run)


if __name__ == "__main__":
    sys.exit(main())
