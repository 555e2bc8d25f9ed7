"""How do the batches that this process owns move on? SHELL: asks `batch_step` and `pacing`, and acts on the answers."""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from typing import assert_never

import structlog

from services.ingest.batch_run import BatchRun, dispatch_record
from services.ingest.batch_step import Begin, Dispatch, RecordEnd, Seal, Step, Validate, Wait, next_step
from services.ingest.model_pools import ModelPools
from services.ingest.ownership import Ownership
from services.ingest.pacing import Limits, Runnable, shares, urgency
from services.ingest.pool_queues import PoolQueues
from services.ingest.read_model import ReadModel
from services.ingest.sealing import Sealing
from services.ingest.settings import IngestBlock
from services.ingest.shard_records import shard_records
from services.ingest.validation import Validation, decide_once
from services.ingest.view_feed import ViewFeed
from shared.batch_state import BatchView
from shared.claim_store import ClaimStore
from shared.errors import HeadraceError, ObjectStoreError
from shared.lifecycle import Stop
from shared.logs import of_batch
from shared.messages import BatchDispatched, CancelHint, encode
from shared.object_store import ObjectStore
from shared.publisher import OutgoingRecord, Publisher
from shared.telemetry import Telemetry
from shared.topics import Topics

log = structlog.get_logger(__name__)

# Between two looks when nothing came; a deadline may be so much late.
TICK_S, IDLE_TICK_S = 0.25, 1.0
FAULT_BACKOFF_S = 1.0
BATCHES_PER_BREATH = 500
# Between these looks at every open batch only those that changed or have lines to dispatch are looked at.
LOOK_AT_ALL_S = 1.0
# A batch that does not end is ended again: the record may have been lost, and a second one changes nothing.
END_REPEAT_S = 30.0


class Dispatcher:
    """Validates, paces and ends the batches of the owned partitions."""

    def __init__(
        self,
        *,
        settings: IngestBlock,
        topics: Topics,
        view: ReadModel,
        feed: ViewFeed,
        ownership: Ownership,
        store: ObjectStore,
        claims: ClaimStore,
        publisher: Publisher,
        queues: PoolQueues,
        pools: ModelPools,
        validation: Validation,
        sealing: Sealing,
        telemetry: Telemetry,
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._view = view
        self._feed = feed
        self._ownership = ownership
        self._store = store
        self._claims = claims
        self._publisher = publisher
        self._queues = queues
        self._pools = pools
        self._validation = validation
        self._sealing = sealing
        self._telemetry = telemetry
        # What takes longer than a turn: a batch is validated, begun or sealed.
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._runs: dict[str, BatchRun] = {}
        self._ended: dict[str, float] = {}
        self._stuck: set[str] = set()
        self._runnable: list[str] = []
        self._looked_at_all = -math.inf

    async def run(self, stop: Stop) -> None:
        """Dispatch until asked to stop; lines in hand are acknowledged before it returns."""
        async with asyncio.TaskGroup() as group:
            while not stop.requested:
                try:
                    progressed = await self._turn(group)
                except HeadraceError as error:
                    log.warning("dispatcher waits", reason=str(error))
                    self._runs.clear()  # their cursors are in doubt: go on from the published ones
                    self._looked_at_all = -math.inf
                    await stop.wait(FAULT_BACKOFF_S)
                    continue
                if not progressed:
                    await self._wait_for_change()
            for task in self._busy.values():
                task.cancel()
        # With the last cursor in the log a restart repeats nothing.
        try:
            await _all_of([run.tell_cursor() for run in self._mine() if run.is_cursor_due(0.0)])
        except HeadraceError as error:
            log.warning("last cursors not written, a restart repeats some lines", reason=str(error))

    async def _wait_for_change(self) -> None:
        try:
            async with asyncio.timeout(TICK_S if self._runnable or self._busy else IDLE_TICK_S):
                await self._feed.changed.wait()
        except TimeoutError:
            return
        self._feed.changed.clear()

    async def _turn(self, group: asyncio.TaskGroup) -> bool:
        """Look at the owned batches that may need something and dispatch one round; whether lines were dispatched."""
        if not self._feed.caught_up:
            return False
        runnable: list[BatchView] = []
        for number, view in enumerate(self._to_look_at(), start=1):
            if number % BATCHES_PER_BREATH == 0:
                await asyncio.sleep(0)
            if await self._look_at(view, group):
                runnable.append(view)
        self._runnable = [view.created.id for view in runnable]
        return await self._dispatch_round(runnable)

    def _to_look_at(self) -> list[BatchView]:
        """Owned open batches: thousands may be open, and few of them move, so only at times all of them."""
        touched, now = self._view.take_touched(), time.monotonic()
        if now - self._looked_at_all < LOOK_AT_ALL_S:
            views = [self._view.open_batch(batch_id) for batch_id in dict.fromkeys([*self._runnable, *touched])]
            return [view for view in views if view is not None and self._ownership.owns(view.created.id)]
        self._looked_at_all = now
        mine = [view for view in self._view.open_batches() if self._ownership.owns(view.created.id)]
        self._forget_others({view.created.id for view in mine})
        return mine

    async def _look_at(self, view: BatchView, group: asyncio.TaskGroup) -> bool:
        """Do what the batch needs now, short of dispatching; whether it has lines that could be dispatched."""
        batch_id, now_s = view.created.id, int(time.time())
        match self._step(view, now_s):
            case Validate():
                self._start(batch_id, group, self._validation.validate, view)
            case Begin():
                self._start(batch_id, group, self._sealing.begin, view)
            case Seal():
                self._start(batch_id, group, self._seal, view)
            case RecordEnd() as end:
                await self._record_end(view, end)
            case Dispatch():
                return batch_id not in self._stuck
            case Wait():
                pass
            case never:
                assert_never(never)
        return False

    def _step(self, view: BatchView, now_s: int) -> Step:
        batch_id = view.created.id
        run = self._runs.get(batch_id)
        if run is not None and run.is_growing:
            run.grow(view.num_lines)
        next_line = run.cursor.next_line if run else view.dispatch.next_line if view.dispatch else 0
        return next_step(view, now_s=now_s, next_line=next_line, end_recorded=self._was_ended_lately(batch_id))

    def _forget_others(self, mine: set[str]) -> None:
        for batch_id in [b for b in self._runs if b not in mine]:
            del self._runs[batch_id]
        self._ended = {b: at for b, at in self._ended.items() if b in mine}
        self._stuck &= mine

    def _was_ended_lately(self, batch_id: str) -> bool:
        ended_at = self._ended.get(batch_id)
        return ended_at is not None and time.monotonic() - ended_at < END_REPEAT_S

    def _start(
        self,
        batch_id: str,
        group: asyncio.TaskGroup,
        work: Callable[[BatchView], Coroutine[None, None, None]],
        view: BatchView,
    ) -> None:
        if batch_id not in self._busy:
            task = group.create_task(self._try(work, view), name=f"{work.__name__} {batch_id}")
            self._busy[batch_id] = task
            task.add_done_callback(lambda _: self._busy.pop(batch_id, None))

    async def _try(self, work: Callable[[BatchView], Coroutine[None, None, None]], view: BatchView) -> None:
        """What fails is tried again by a later turn."""
        try:
            await work(view)
        except (HeadraceError, OSError) as error:
            log.warning("batch waits", **of_batch(view.created), step=work.__name__, reason=str(error))
            await asyncio.sleep(FAULT_BACKOFF_S)

    async def _seal(self, view: BatchView) -> None:
        batch_id, run = view.created.id, self._runs.get(view.created.id)
        assert view.dispatch is not None, "it was begun"
        await self._sealing.seal(view, run.cursor if run else view.dispatch)
        self._runs.pop(batch_id, None)

    async def _record_end(self, view: BatchView, step: RecordEnd) -> None:
        """Append the record that ends the batch to each shard's partition, and hint at it to the workers."""
        batch_id = view.created.id
        if batch_id in self._busy:
            return  # its outcome decides how many lines were accepted; the next turn sees it
        self._ended[batch_id] = time.monotonic()
        self._runs.pop(batch_id, None)
        hint = OutgoingRecord(self._topics.control.name, encode(CancelHint(batch_id=batch_id)), 0, batch_id.encode())
        try:
            # Whoever ends a batch that nobody validated decides that it has no lines, before anybody else decides.
            nothing = BatchDispatched(in_progress_at=int(time.time()))
            decided = view.dispatch or await decide_once(self._store, batch_id, nothing)
            if decided.failed_at is not None:  # refused by a dispatcher that died before it could tell
                await self._publisher.send(dispatch_record(self._topics.batches, batch_id, decided))
                return
            total = decided.total
            await self._publisher.send_all(shard_records(self._topics, view.created, step.kind, total))
            # After the records: a line that a worker skips because of the hint must lie behind them.
            await self._publisher.send(hint)
        except HeadraceError:
            self._ended.pop(batch_id, None)
            raise
        log.info("end of batch recorded", **of_batch(view.created), kind=step.kind, total=total)

    async def _dispatch_round(self, views: Sequence[BatchView]) -> bool:
        by_id = {view.created.id: view for view in views}
        cursors = [self._cursor_of(view) for view in views]
        await self._queues.refresh({model for cursor in cursors for model in cursor.pool_models})
        candidates: list[Runnable] = []
        tenant_outstanding: dict[str, int] = defaultdict(int)
        for view in views:
            if len(candidates) % BATCHES_PER_BREATH == 0:
                await asyncio.sleep(0)
            candidates.append(self._candidate(view))
            tenant_outstanding[view.created.tenant] += candidates[-1].outstanding
        s = self._settings
        limits = Limits(s.outstanding_lines_per_batch, s.outstanding_lines_per_tenant, s.dispatch_chunk_lines)
        round_of_shares = shares(candidates, limits, tenant_outstanding)
        await _all_of([self._dispatch(by_id[share.batch_id], share.num_lines) for share in round_of_shares])
        due = [run for run in self._mine() if run.is_cursor_due(s.cursor_interval_s)]
        await _all_of([run.tell_cursor() for run in due])
        for done in (run for run in due if run.is_done and not run.is_growing):
            log.info("batch dispatched", **of_batch(done.created), num_lines=done.cursor.num_dispatched)
        return bool(round_of_shares)

    def _mine(self) -> list[BatchRun]:
        """Runs whose batches are still ours and are not just being sealed: another one's cursor is not ours to tell."""
        return [
            run for batch_id, run in self._runs.items() if self._ownership.owns(batch_id) and batch_id not in self._busy
        ]

    def _cursor_of(self, view: BatchView) -> BatchDispatched:
        assert view.dispatch is not None, "validated batches only"
        run = self._runs.get(view.created.id)
        return run.cursor if run else view.dispatch

    def _candidate(self, view: BatchView) -> Runnable:
        created, run, cursor = view.created, self._runs.get(view.created.id), self._cursor_of(view)
        remaining = max(cursor.total, view.num_lines) - cursor.num_dispatched
        if run is not None and run.room is not None:
            remaining = min(remaining, run.room)
        return Runnable(
            batch_id=created.id,
            tenant=created.tenant,
            urgency=urgency(created),
            remaining=remaining,
            outstanding=run.outstanding(view.answered) if run else max(0, cursor.num_dispatched - view.answered),
        )

    async def _dispatch(self, view: BatchView, num_lines: int) -> None:
        try:
            await self._run_of(view).dispatch(num_lines)
        except ObjectStoreError as error:
            # Its input is gone or refused: it waits for its deadline, the others go on.
            log.error("batch cannot be dispatched", **of_batch(view.created), reason=str(error))
            self._stuck.add(view.created.id)

    def _run_of(self, view: BatchView) -> BatchRun:
        run = self._runs.get(view.created.id)
        if run is None:
            run = self._runs[view.created.id] = BatchRun(
                view,
                store=self._store,
                claims=self._claims,
                topics=self._topics,
                publisher=self._publisher,
                telemetry=self._telemetry,
                queues=self._queues,
                pool_of=self._pools.pool_of,
                like_lines_together=self._settings.like_lines_together,
            )
            run.grow(view.num_lines)
        return run


async def _all_of(work: Sequence[Coroutine[None, None, None]]) -> None:
    """Do all at once; raises the first failure when none is under way any more."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
