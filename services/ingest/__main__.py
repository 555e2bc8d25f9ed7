"""Entry point of ingest: the HTTP API and the dispatcher in one process."""

import asyncio
import contextlib
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from services.ingest.admission.admission import Admission
from services.ingest.app import create_app
from services.ingest.batch_metrics import BatchMetrics
from services.ingest.housekeeping import Housekeeping
from services.ingest.ownership import Ownership
from services.ingest.pool_queues import PoolQueues
from services.ingest.read_model import ReadModel
from services.ingest.readiness import needs
from services.ingest.settings import IngestSettings
from services.ingest.view_feed import ViewFeed, state_partitions
from services.ingest.wiring import Ports, Roles, make_admission, make_dispatcher, make_roles, make_routers
from shared.claim_store import ClaimStore
from shared.dependencies import Dependencies
from shared.group_lag import GroupLag
from shared.group_offsets import GroupOffsets
from shared.health import serve_health, start_server
from shared.kafka import make_producer, start_client, stop_client
from shared.lifecycle import Stop, run_service, settle_heap, stop_on_signals
from shared.log_ends import LogEnds
from shared.log_reader import LogReader
from shared.logs import set_up_logging
from shared.object_store import ObjectStore
from shared.open_store import open_store
from shared.publisher import Publisher
from shared.settings import load_settings
from shared.telemetry import Telemetry
from shared.topic_setup import prepare_topics
from shared.topics import Topics
from shared.traced_store import TracedStore

HTTP_DRAIN_S = 5


class IngestProcess:
    """All roles of ingest and the stop that joins them."""

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._topics = Topics(settings.kafka)
        self._stop = Stop()
        self._admission: Admission | None = None

    async def run(self) -> int:
        """Serve until asked to stop; the exit code."""
        stop_on_signals(self._stop)
        async with contextlib.AsyncExitStack() as stack:
            ports = await self._open(stack)
            BatchMetrics(ports.view, ports.telemetry)
            roles = make_roles(self._settings, self._topics, ports)
            if self._settings.ingest.intake.enabled:
                self._admission = make_admission(self._settings, self._topics, ports, roles)
            routers = make_routers(self._settings, self._topics, ports, roles)

            checks = {"broker": ports.publisher.ask_broker, "store": ports.store.ask}
            dependencies = Dependencies(checks, ports.telemetry)

            def told() -> dict[str, str | None]:
                return self._needs(ports, dependencies)

            watch = asyncio.create_task(dependencies.watch(), name="dependencies")
            stack.callback(watch.cancel)
            if self._settings.telemetry.metrics:
                lag = GroupLag(self._settings.kafka, self._settings.models)
                stack.push_async_callback(lag.close)
                watch_lag = asyncio.create_task(lag.watch(ports.telemetry), name="lag")
                stack.callback(watch_lag.cancel)
            async with serve_health(self._settings.health, told):
                await self._serve(ports, roles, create_app(routers, told, ports.telemetry))
        return 0

    async def _open(self, stack: contextlib.AsyncExitStack) -> Ports:
        s, kafka = self._settings, self._settings.kafka
        telemetry = Telemetry("ingest", s.telemetry, serve_metrics=True)
        stack.callback(telemetry.close)
        store: ObjectStore = TracedStore(await open_store(s.store), telemetry.tracer, s.store.url)
        stack.push_async_callback(store.close)

        async def opened() -> ObjectStore:
            return store

        foreign = [self._topics.foreign(name) for name in s.ingest.intake.users_topics]
        log_id = await prepare_topics(kafka, [*self._topics.all_for(s.models), *foreign])
        producer = make_producer(kafka)
        await start_client(producer, kafka)
        stack.push_async_callback(stop_client, producer)
        path = s.ingest.view_path or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "view.sqlite"
        path.parent.mkdir(parents=True, exist_ok=True)
        view = ReadModel(path, self._topics, log_id)
        stack.callback(view.close)
        ownership = Ownership(kafka, self._topics, s.ingest.instance_id or None)
        stack.push_async_callback(ownership.close)
        ends = LogEnds(kafka, state_partitions(self._topics))
        queues = PoolQueues(
            topics=self._topics,
            view=view,
            group_offsets=GroupOffsets(kafka),
            new_ends=partial(LogEnds, kafka),
            worker_silence_s=s.ingest.worker_silence_s,
        )
        stack.push_async_callback(queues.close)
        return Ports(
            store=store,
            claims=ClaimStore(opened, s.store.inline_bytes_max),
            log_id=log_id,
            publisher=Publisher(producer, telemetry),
            telemetry=telemetry,
            view=view,
            feed=ViewFeed(LogReader(kafka), ends, view, self._topics),
            ownership=ownership,
            queues=queues,
        )

    def _needs(self, ports: Ports, dependencies: Dependencies) -> dict[str, str | None]:
        s = self._settings
        return needs(
            dependencies.states(),
            view_caught_up=ports.feed.caught_up,
            dispatching=ports.ownership.joined,
            admitting=self._admission is None or self._admission.joined,
            stopping=self._stop.requested,
            models=s.models,
            alive=ports.view.models_alive(int(time.time() * 1000), s.ingest.worker_silence_s),
        )

    async def _serve(self, ports: Ports, roles: Roles, app: ASGIApp) -> None:
        block = self._settings.ingest
        dispatcher = make_dispatcher(self._settings, self._topics, ports, roles)
        housekeeping = Housekeeping(
            ownership=ports.ownership,
            keeper=roles.keeper,
            uploads=roles.uploads,
            idempotency=roles.idempotency,
            claims=ports.claims,
        )
        config = uvicorn.Config(
            app,
            host=block.host,
            port=block.port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=HTTP_DRAIN_S,
        )
        async with asyncio.TaskGroup() as group:
            follow = group.create_task(ports.feed.run(), name="view")
            # Joining may wait for the session of a process that died; the API does not.
            join = group.create_task(ports.ownership.run(), name="ownership")
            # Nobody is told that a batch does not exist before the whole log was looked at.
            if not await self._caught_up_before_stop(ports.feed):
                follow.cancel()
                join.cancel()
                return
            settle_heap()
            server, http = await start_server(config)
            work = {group.create_task(dispatcher.run(self._stop), name="dispatcher")}
            if self._admission is not None:
                work.add(group.create_task(self._admission.run(self._stop), name="admission"))
            clean = group.create_task(housekeeping.run(self._stop), name="housekeeping")
            await self._stop.wait()
            server.stop()
            await http
            await asyncio.wait(work, timeout=self._settings.drain_timeout_s)
            for task in work:
                task.cancel()
            clean.cancel()
            follow.cancel()
            join.cancel()

    async def _caught_up_before_stop(self, feed: ViewFeed) -> bool:
        caught_up, stopped = (
            asyncio.ensure_future(feed.wait_until_caught_up()),
            asyncio.ensure_future(self._stop.wait()),
        )
        await asyncio.wait({caught_up, stopped}, return_when=asyncio.FIRST_COMPLETED)
        caught_up.cancel()
        stopped.cancel()
        return feed.caught_up


async def run() -> int:
    """Read the settings and serve."""
    settings = load_settings(IngestSettings)
    set_up_logging(settings.telemetry, "ingest")
    return await IngestProcess(settings).run()


def main() -> int:
    """Process entry."""
    return run_service(run)


if __name__ == "__main__":
    sys.exit(main())
