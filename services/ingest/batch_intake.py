"""How does a batch come to be? SHELL: manifest and `created` facet, once per idempotency key."""

import contextlib
import hashlib
import secrets
import time
from dataclasses import dataclass

import msgspec
import structlog

from services.ingest.idempotency import Idempotency, Note
from services.ingest.log_writer import LogWriter
from services.ingest.read_model import ReadModel
from services.ingest.view_feed import ViewFeed
from shared import identifiers
from shared.errors import HeadraceError, ObjectExists
from shared.logs import of_batch
from shared.messages import BatchCreated, StoredFile, encode
from shared.object_store import ObjectStore, manifest_key
from shared.span_attributes import BATCH_ID
from shared.telemetry import Telemetry
from shared.trace_context import traceparent_of

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BatchOrder:
    """What is wanted; two equal orders are the same call made twice."""

    tenant: str
    endpoint: str
    input_file_id: str
    completion_window: str
    window_s: int
    metadata: dict[str, str] | None = None
    output_expires_after_s: int | None = None
    priority: int = 0
    retry_of: str | None = None

    @property
    def fingerprint(self) -> str:
        """The hash of all of it."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class KeyConflict(HeadraceError):
    """The idempotency key was used for another order."""


class BatchIntake:
    """Accepts orders."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        view: ReadModel,
        feed: ViewFeed,
        log_writer: LogWriter,
        idempotency: Idempotency,
        telemetry: Telemetry,
    ) -> None:
        self._store = store
        self._view = view
        self._feed = feed
        self._log_writer = log_writer
        self._idempotency = idempotency
        self._telemetry = telemetry

    async def earlier(self, order: BatchOrder, within_s: int) -> BatchCreated | None:
        """The batch that an equal order made a moment ago: an SDK repeats calls whose answer it did not get."""
        await self._feed.catch_up()
        since_s = int(time.time()) - within_s
        for view in self._view.list_batches(tenant=order.tenant, after=None, limit=100):
            if view.created.created_at < since_s:
                return None
            if view.created.fingerprint == order.fingerprint:
                return view.created
        return None

    async def is_known(self, tenant: str, idempotency_key: str) -> bool:
        """Whether a call with this key was made in the last 24 h."""
        return await self._idempotency.find(tenant, idempotency_key, int(time.time())) is not None

    async def accept(self, order: BatchOrder, file: StoredFile | None, idempotency_key: str | None) -> BatchCreated:
        """Make the batch durable, or find the one that the key made before; raises KeyConflict, UnavailableError.

        `file` is None for an input file that does not exist, where such batches are made to fail.
        """
        now_ns = time.time_ns()
        now_s = now_ns // 10**9
        batch_id = identifiers.batch_id(now_ns, secrets.token_bytes(9))
        first = self._view.batch(order.retry_of) if order.retry_of else None
        linked = first.created.traceparent if first else None
        with self._telemetry.kept("create batch", None, {BATCH_ID: batch_id}, linked) as span:
            created = BatchCreated(
                id=batch_id,
                endpoint=order.endpoint,
                input_file_id=order.input_file_id,
                completion_window=order.completion_window,
                created_at=now_s,
                expires_at=now_s + order.window_s,
                metadata=order.metadata,
                tenant=order.tenant,
                output_expires_after_s=order.output_expires_after_s,
                priority=order.priority,
                fingerprint=order.fingerprint,
                retry_of=order.retry_of,
                traceparent=traceparent_of(span),
                input_file=file,
            )
            if idempotency_key is not None:
                note = Note(fingerprint=order.fingerprint, created=created)
                held = await self._idempotency.claim(order.tenant, idempotency_key, note, now_s)
                if held.fingerprint != order.fingerprint:
                    raise KeyConflict(f"The idempotency key '{idempotency_key}' was used with other parameters.")
                created = held.created
            span.set_attribute(BATCH_ID, created.id)
            # An earlier call with the key may have died at any point, so each step is made sure of.
            with contextlib.suppress(ObjectExists):
                await self._store.create(manifest_key(created.id), encode(created))
                _tell(created)
            if self._view.batch(created.id) is None:
                await self._log_writer.write_facet(created.id, "created", created)
        return created


def _tell(created: BatchCreated) -> None:
    log.info(
        "batch created",
        **of_batch(created),
        tenant=created.tenant,
        endpoint=created.endpoint,
        input_file_id=created.input_file_id,
        retry_of=created.retry_of,
    )
