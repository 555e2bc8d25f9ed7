"""Is an input file accepted? SHELL: one pass over it, and one outcome for good."""

import asyncio
import time

import msgspec
import structlog
from opentelemetry.trace import SpanKind

from services.ingest.batch_run import dispatch_record
from services.ingest.input_checks import InputChecks
from services.ingest.input_file import InputFile
from services.ingest.line_source import read_lines
from services.ingest.view_feed import ViewFeed
from shared.batch_state import BatchView
from shared.errors import HeadraceError, ObjectExists, ObjectNotFound
from shared.logs import of_batch
from shared.messages import BatchCreated, BatchDispatched, LineProblem, encode
from shared.object_store import ObjectStore, validated_key
from shared.publisher import Publisher
from shared.span_attributes import BATCH_ID
from shared.telemetry import Telemetry
from shared.topics import Topics
from shared.trace_context import context_from

log = structlog.get_logger(__name__)

# Lines between two breaths of the event loop.
LINES_PER_TURN = 200


class Validation:
    """Validates batches, a few at a time."""

    def __init__(
        self,
        *,
        checks: InputChecks,
        concurrency: int,
        store: ObjectStore,
        topics: Topics,
        publisher: Publisher,
        feed: ViewFeed,
        telemetry: Telemetry,
    ) -> None:
        self._checks = checks
        self._slots = asyncio.Semaphore(concurrency)
        self._store = store
        self._topics = topics
        self._publisher = publisher
        self._feed = feed
        self._telemetry = telemetry

    async def validate(self, view: BatchView) -> None:
        """Decide, and return once the view says so; raises UnavailableError."""
        created = view.created
        async with self._slots:
            with self._telemetry.tracer.start_as_current_span(
                "validate batch",
                context_from(created.traceparent),
                SpanKind.INTERNAL,
                {BATCH_ID: created.id},
            ):
                facet = await self._judge(created)
                facet = await decide_once(self._store, created.id, facet)
        # Not cancelled from here on: a decision that may be in the log must be waited for.
        written = await asyncio.shield(self._publisher.send(dispatch_record(self._topics.batches, created.id, facet)))
        await asyncio.shield(self._feed.wait_for(written))
        outcome = "failed" if facet.failed_at is not None else "in_progress"
        log.info("batch validated", **of_batch(created), status=outcome, total=facet.total, problems=len(facet.errors))

    async def _judge(self, created: BatchCreated) -> BatchDispatched:
        """Validate; a file that our own code cannot stand fails its batch, and not the process for everybody.

        What may pass by itself (a store that is away, a machine without room) is raised, and tried again.
        """
        checked = self._checks.input_file(created.endpoint, created.tenant, created.id)
        try:
            return await _outcome(self._store, created, checked)
        except (HeadraceError, OSError, MemoryError):
            raise
        except Exception:
            log.exception("validation crashed", **of_batch(created))
            crashed = LineProblem(code="server_error", message="The input file could not be validated.")
            return BatchDispatched(failed_at=int(time.time()), errors=(crashed,))


async def _outcome(store: ObjectStore, created: BatchCreated, checked: InputFile) -> BatchDispatched:
    """One pass over the input file: failed with its problems, or in progress with the number of lines."""
    now_s = int(time.time())
    try:
        if created.input_file is None:  # it never existed, or belongs to another tenant
            raise ObjectNotFound(created.input_file_id)
        await check_lines(store, created.input_file_id, checked)
    except ObjectNotFound:
        text = f"Cannot find file {created.input_file_id}, or organization {created.tenant} does not have access to it."
        gone = LineProblem(code="invalid_request", message=text, param="file_id")
        return BatchDispatched(failed_at=max(now_s, created.created_at), errors=(gone,))
    now_s = max(int(time.time()), created.created_at)
    if problems := checked.finish():
        return BatchDispatched(failed_at=now_s, errors=problems)
    return BatchDispatched(
        in_progress_at=now_s,
        total=checked.num_lines,
        model=checked.model,
        pools=checked.pools,
        served_by=checked.served_by,
    )


async def check_lines(store: ObjectStore, file_id: str, checked: InputFile) -> None:
    """Stream a file through its validator; raises ObjectNotFound."""
    async for line in read_lines(store, file_id):
        checked.check(line)
        if line.number % LINES_PER_TURN == 0:
            await asyncio.sleep(0)


async def decide_once(store: ObjectStore, batch_id: str, outcome: BatchDispatched) -> BatchDispatched:
    """Make a batch's validation durable: the first outcome wins, whichever dispatcher found it; returns that one."""
    key = validated_key(batch_id)
    try:
        await store.create(key, encode(outcome))
    except ObjectExists:
        return msgspec.json.decode(await store.read(key), type=BatchDispatched)
    return outcome
