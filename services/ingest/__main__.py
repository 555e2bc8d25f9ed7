"""Entry point of ingest: the HTTP API and the dispatcher in one process."""

import asyncio
import contextlib
import gc
import sys
import tempfile
import time
from pathlib import Path

import uvicorn

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
from services.ingest.quota import Quota
from services.ingest.rate_limiter import RateLimiter
from services.ingest.read_model import ReadModel
from services.ingest.readiness import missing
from services.ingest.settings import IngestSettings
from services.ingest.uploads import Uploads
from services.ingest.view_feed import ViewFeed, state_partitions
from shared.health import serve_health, start_server
from shared.kafka import Publisher, make_producer, start_client, stop_client
from shared.lifecycle import Stop, run_service, stop_on_signals
from shared.log_ends import LogEnds
from shared.log_reader import LogReader
from shared.open_store import open_store
from shared.settings import load_settings
from shared.telemetry import Telemetry, set_up_logging
from shared.topic_setup import prepare_topics
from shared.topics import Topics

HTTP_DRAIN_S = 5


class IngestProcess:
    """All roles of ingest and the stop that joins them."""

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._topics = Topics(settings.kafka)
        self._stop = Stop()

    async def run(self) -> int:
        """Serve until asked to stop; the exit code."""
        stop_on_signals(self._stop)
        s, kafka = self._settings, self._settings.kafka
        async with contextlib.AsyncExitStack() as stack:
            store = await open_store(s.store)
            stack.push_async_callback(store.close)
            log_id = await prepare_topics(kafka, self._topics.all_for(s.models))
            telemetry = Telemetry("ingest", s.telemetry, serve_metrics=True)
            stack.callback(telemetry.close)
            producer = make_producer(kafka)
            await start_client(producer, kafka)
            stack.push_async_callback(stop_client, producer)
            publisher = Publisher(producer)
            path = s.ingest.view_path or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "view.sqlite"
            path.parent.mkdir(parents=True, exist_ok=True)
            view = ReadModel(path, self._topics, log_id)
            stack.callback(view.close)
            ends = LogEnds(kafka, state_partitions(self._topics))
            feed = ViewFeed(LogReader(kafka), ends, view, self._topics)
            ownership = Ownership(kafka, self._topics, s.ingest.instance_id or None)
            stack.push_async_callback(ownership.close)
            log_writer = LogWriter(self._topics, publisher, feed)
            limits = TenantLimits(s.ingest.limits, s.ingest.tenant_limits)
            quota, pools = Quota(view, limits), ModelPools(s.models, view, s.ingest.worker_silence_s)
            checks = InputChecks(s.ingest, s.contract, pools, quota)
            dispatcher = Dispatcher(
                settings=s.ingest,
                checks=checks,
                topics=self._topics,
                view=view,
                feed=feed,
                ownership=ownership,
                store=store,
                publisher=publisher,
                telemetry=telemetry,
            )
            keeper = FileKeeper(
                view=view,
                store=store,
                log_writer=log_writer,
                batch_file_expires_after_s=s.ingest.batch_file_expires_after_s,
            )
            uploads, idempotency = Uploads(store, keeper), Idempotency(store)
            housekeeping = Housekeeping(ownership=ownership, keeper=keeper, uploads=uploads, idempotency=idempotency)
            lookup, rates = Lookup(view, feed, store), RateLimiter()
            gates = {
                name: Gate(view=view, feed=feed, limits=limits, rate_limiter=rates, resource=name)
                for name in ("files", "batches", "models")
            }
            apis = [
                FilesApi(
                    settings=s.ingest,
                    lookup=lookup,
                    store=store,
                    keeper=keeper,
                    quota=quota,
                    checks=checks,
                    gate=gates["files"],
                ).router(),
                UploadsApi(settings=s.ingest, uploads=uploads, store=store, quota=quota, gate=gates["files"]).router(),
                BatchesApi(
                    settings=s.ingest,
                    contract=s.contract,
                    view=view,
                    lookup=lookup,
                    store=store,
                    log_writer=log_writer,
                    intake=BatchIntake(
                        store=store,
                        view=view,
                        feed=feed,
                        log_writer=log_writer,
                        idempotency=idempotency,
                        telemetry=telemetry,
                    ),
                    retry=BatchRetry(store, keeper),
                    shape=BatchShape(view, s.contract),
                    quota=quota,
                    gate=gates["batches"],
                ).router(),
                ResultsApi(
                    lookup=lookup,
                    results=LiveResults(store=store, view=view, topics=self._topics, log_id=log_id),
                    gate=gates["batches"],
                ).router(),
                ModelsApi(pools=pools, gate=gates["models"]).router(),
            ]

            def not_ready() -> dict[str, str]:
                return missing(
                    view_caught_up=feed.caught_up,
                    dispatching=ownership.joined,
                    stopping=self._stop.requested,
                    models=s.models,
                    alive=view.models_alive(int(time.time() * 1000), s.ingest.worker_silence_s),
                )

            async with serve_health(s.health, not_ready):
                await self._serve(feed, ownership, dispatcher, housekeeping, create_app(apis, not_ready))
        return 0

    async def _serve(
        self, feed: ViewFeed, ownership: Ownership, dispatcher: Dispatcher, housekeeping: Housekeeping, app: object
    ) -> None:
        block = self._settings.ingest
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            host=block.host,
            port=block.port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=HTTP_DRAIN_S,
        )
        async with asyncio.TaskGroup() as group:
            follow = group.create_task(feed.run(), name="view")
            # Joining may wait for the session of a process that died; the API does not.
            join = group.create_task(ownership.open(), name="ownership")
            # Nobody is told that a batch does not exist before the whole log was looked at.
            if not await self._caught_up_before_stop(feed):
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
            server.should_exit = True
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
