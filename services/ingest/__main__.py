"""Entry point of ingest: the HTTP API and the dispatcher in one process."""

import asyncio
import contextlib
import gc
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvicorn
from fastapi import APIRouter
from starlette.types import ASGIApp

from services.ingest.api.batches import BatchesApi
from services.ingest.api.files import FilesApi
from services.ingest.api.gate import Gate
from services.ingest.api.models import ModelsApi
from services.ingest.api.results import ResultsApi
from services.ingest.api.uploads import UploadsApi
from services.ingest.app import create_app
from services.ingest.batch_intake import BatchIntake
from services.ingest.batch_retry import BatchRetry
from services.ingest.batch_shape import BatchShape
from services.ingest.dispatcher import Dispatcher
from services.ingest.file_keeper import FileKeeper
from services.ingest.housekeeping import Housekeeping
from services.ingest.idempotency import Idempotency
from services.ingest.input_checks import InputChecks
from services.ingest.limits import TenantLimits
from services.ingest.live_results import LiveResults
from services.ingest.log_writer import LogWriter
from services.ingest.lookup import Lookup
from services.ingest.model_pools import ModelPools
from services.ingest.ownership import Ownership
from services.ingest.pool_queues import PoolQueues
from services.ingest.quota import Quota
from services.ingest.rate_limiter import RateLimiter
from services.ingest.read_model import ReadModel
from services.ingest.readiness import missing
from services.ingest.settings import IngestSettings
from services.ingest.uploads import Uploads
from services.ingest.view_feed import ViewFeed, state_partitions
from shared.group_offsets import GroupOffsets
from shared.health import serve_health, start_server
from shared.kafka import make_producer, start_client, stop_client
from shared.lifecycle import Stop, run_service, stop_on_signals
from shared.log_ends import LogEnds
from shared.log_reader import LogReader
from shared.object_store import ObjectStore
from shared.open_store import open_store
from shared.publisher import Publisher
from shared.settings import load_settings
from shared.telemetry import Telemetry, set_up_logging
from shared.topic_setup import prepare_topics
from shared.topics import Topics

HTTP_DRAIN_S = 5


@dataclass(frozen=True)
class Ports:
    """What reaches out of the process, and the view of the log that all roles share."""

    store: ObjectStore
    log_id: str
    publisher: Publisher
    telemetry: Telemetry
    view: ReadModel
    feed: ViewFeed
    ownership: Ownership
    queues: PoolQueues


@dataclass(frozen=True)
class Roles:
    """What the API, the dispatcher and the housekeeping are made of; each part is there once."""

    log_writer: LogWriter
    lookup: Lookup
    limits: TenantLimits
    quota: Quota
    pools: ModelPools
    checks: InputChecks
    keeper: FileKeeper
    uploads: Uploads
    idempotency: Idempotency


class IngestProcess:
    """All roles of ingest and the stop that joins them."""

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._topics = Topics(settings.kafka)
        self._stop = Stop()

    async def run(self) -> int:
        """Serve until asked to stop; the exit code."""
        stop_on_signals(self._stop)
        async with contextlib.AsyncExitStack() as stack:
            ports = await self._open(stack)
            roles = self._roles(ports)

            def not_ready() -> dict[str, str]:
                return self._missing(ports)

            async with serve_health(self._settings.health, not_ready):
                await self._serve(ports, roles, create_app(self._routers(ports, roles), not_ready))
        return 0

    async def _open(self, stack: contextlib.AsyncExitStack) -> Ports:
        s, kafka = self._settings, self._settings.kafka
        store = await open_store(s.store)
        stack.push_async_callback(store.close)
        log_id = await prepare_topics(kafka, self._topics.all_for(s.models))
        telemetry = Telemetry("ingest", s.telemetry, serve_metrics=True)
        stack.callback(telemetry.close)
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
            log_id=log_id,
            publisher=Publisher(producer),
            telemetry=telemetry,
            view=view,
            feed=ViewFeed(LogReader(kafka), ends, view, self._topics),
            ownership=ownership,
            queues=queues,
        )

    def _roles(self, ports: Ports) -> Roles:
        s = self._settings
        log_writer = LogWriter(self._topics, ports.publisher, ports.feed)
        limits = TenantLimits(s.ingest.limits, s.ingest.tenant_limits)
        quota, pools = Quota(ports.view, limits), ModelPools(s.models, ports.view, s.ingest.worker_silence_s)
        keeper = FileKeeper(
            view=ports.view,
            store=ports.store,
            log_writer=log_writer,
            batch_file_expires_after_s=s.ingest.batch_file_expires_after_s,
        )
        return Roles(
            log_writer=log_writer,
            lookup=Lookup(ports.view, ports.feed, ports.store),
            limits=limits,
            quota=quota,
            pools=pools,
            checks=InputChecks(s.ingest, s.contract, pools, quota),
            keeper=keeper,
            uploads=Uploads(ports.store, keeper),
            idempotency=Idempotency(ports.store),
        )

    def _routers(self, ports: Ports, roles: Roles) -> list[APIRouter]:
        s, rates = self._settings, RateLimiter()
        files, batches, models = (
            Gate(view=ports.view, feed=ports.feed, limits=roles.limits, rate_limiter=rates, resource=name)
            for name in ("files", "batches", "models")
        )
        files_api = FilesApi(
            settings=s.ingest,
            lookup=roles.lookup,
            store=ports.store,
            keeper=roles.keeper,
            quota=roles.quota,
            checks=roles.checks,
            gate=files,
        )
        uploads_api = UploadsApi(
            settings=s.ingest, uploads=roles.uploads, store=ports.store, quota=roles.quota, gate=files
        )
        intake = BatchIntake(
            store=ports.store,
            view=ports.view,
            feed=ports.feed,
            log_writer=roles.log_writer,
            idempotency=roles.idempotency,
            telemetry=ports.telemetry,
        )
        batches_api = BatchesApi(
            settings=s.ingest,
            contract=s.contract,
            view=ports.view,
            lookup=roles.lookup,
            store=ports.store,
            log_writer=roles.log_writer,
            intake=intake,
            retry=BatchRetry(ports.store, roles.keeper),
            shape=BatchShape(ports.view, s.contract),
            quota=roles.quota,
            gate=batches,
        )
        live_results = LiveResults(store=ports.store, view=ports.view, topics=self._topics, log_id=ports.log_id)
        results_api = ResultsApi(lookup=roles.lookup, results=live_results, gate=batches)
        models_api = ModelsApi(pools=roles.pools, gate=models)
        return [api.router() for api in (files_api, uploads_api, batches_api, results_api, models_api)]

    def _dispatcher(self, ports: Ports, roles: Roles) -> Dispatcher:
        return Dispatcher(
            settings=self._settings.ingest,
            checks=roles.checks,
            topics=self._topics,
            view=ports.view,
            feed=ports.feed,
            ownership=ports.ownership,
            store=ports.store,
            publisher=ports.publisher,
            queues=ports.queues,
            telemetry=ports.telemetry,
        )

    def _missing(self, ports: Ports) -> dict[str, str]:
        s = self._settings
        return missing(
            view_caught_up=ports.feed.caught_up,
            dispatching=ports.ownership.joined,
            stopping=self._stop.requested,
            models=s.models,
            alive=ports.view.models_alive(int(time.time() * 1000), s.ingest.worker_silence_s),
        )

    async def _serve(self, ports: Ports, roles: Roles, app: ASGIApp) -> None:
        block = self._settings.ingest
        dispatcher = self._dispatcher(ports, roles)
        housekeeping = Housekeeping(
            ownership=ports.ownership, keeper=roles.keeper, uploads=roles.uploads, idempotency=roles.idempotency
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
            join = group.create_task(ports.ownership.open(), name="ownership")
            # Nobody is told that a batch does not exist before the whole log was looked at.
            if not await self._caught_up_before_stop(ports.feed):
                follow.cancel()
                join.cancel()
                return
            # What lives from here on is not looked at again: a full collection would stop every call for 80 ms.
            gc.collect()
            gc.freeze()
            server, http = await start_server(config)
            dispatch = group.create_task(dispatcher.run(self._stop), name="dispatcher")
            clean = group.create_task(housekeeping.run(self._stop), name="housekeeping")
            await self._stop.wait()
            server.stop()
            await http
            await asyncio.wait({dispatch}, timeout=self._settings.drain_timeout_s)
            dispatch.cancel()
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
    set_up_logging(settings.telemetry)
    return await IngestProcess(settings).run()


def main() -> int:
    """Process entry."""
    return run_service(run)


if __name__ == "__main__":
    sys.exit(main())
