"""The rules of the design that a twin runs without; each must make seeds break, or the checker is blind."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from services.collector import audit, auditor, closing, collector, ledger
from services.inference import offset_tracker, request_feed, suspicion, worker
from services.ingest import dispatcher, validation
from shared import publisher
from tests.simulation import object_store, plan, world


def fast_polls() -> None:
    """Long polls cost nothing here, because whoever waits is woken when something comes."""
    collector.POLL_TIMEOUT_MS = 2_000
    request_feed.POLL_TIMEOUT_MS = 5_000
    worker.CONTROL_POLL_TIMEOUT_MS = 100_000
    worker.PROBE_INTERVAL_S = 1_000.0
    dispatcher.TICK_S = 2.0
    dispatcher.END_REPEAT_S = 30.0
    dispatcher.LOOK_AT_ALL_S = 5.0


def _commit_early() -> None:
    """Commit what was handed out, not what is finished."""
    deliver = offset_tracker.OffsetTracker.deliver

    def delivered_is_done(self: Any, offset: int) -> bool:
        is_new = deliver(self, offset)
        if is_new:
            self.finish(offset)
        return is_new

    offset_tracker.OffsetTracker.deliver = delivered_is_done  # type: ignore[method-assign]


def _no_bitmap() -> None:
    """Keep every completion, repeated ones too."""
    ledger.Shard.has = lambda _self, _line: False  # type: ignore[method-assign,assignment]


def _plain_put() -> None:
    """Overwrite objects."""

    def overwrite(self: Any, key: str, data: bytes) -> None:
        if key in self.objects and self.objects[key] != data:
            self.overwritten.append(key)
        self.objects[key] = data

    object_store.Store.create = overwrite  # type: ignore[method-assign]


def _no_audit() -> None:
    """Never look for lost lines."""

    async def nothing(*_: Any) -> None:
        return

    auditor.Auditor.audit = nothing  # type: ignore[method-assign,assignment]


def _no_resend() -> None:
    """Give up a send that failed, and go on as if it had arrived."""

    async def once(self: Any, records: Any) -> list[Any]:
        results: list[Any] = [None] * len(records)
        await self._try(records, list(range(len(records))), results)
        return [result for result in results if result is not None]

    publisher.Publisher.send_all = once  # type: ignore[method-assign]


def _no_isolation() -> None:
    """Forget that an owner died."""
    take_over = suspicion.take_over

    def forgetful(note: Any, window: int) -> Any:
        return take_over(note and msgspec.structs.replace(note, held=False, deaths=0), window)

    setattr(offset_tracker, "take_over", forgetful)  # noqa: B010 - a name that the module imported


def _collect_untold() -> None:
    """Remove segments as soon as the terminal record exists, told or not."""

    async def by_record(self: Any, batch_id: str) -> int | None:
        return await self._finalizer.closed_at(batch_id)  # type: ignore[no-any-return]

    closing.Closing.closed_at = by_record  # type: ignore[method-assign]


def _no_counts_after_recovery() -> None:
    """Tell progress only of what this session appended."""
    recover = collector.PartitionCollector._recover

    async def silent(self: Any, reader: Any, tasks: Any) -> None:
        await recover(self, reader, tasks)
        self._progress._waiting.clear()

    collector.PartitionCollector._recover = silent  # type: ignore[method-assign]


def _validate_twice() -> None:
    """Let every dispatcher publish what it decided itself."""

    async def own(_store: Any, _batch_id: str, outcome: Any) -> Any:
        return outcome

    setattr(validation, "decide_once", own)  # noqa: B010 - a name that the module imported


def _audit_without_fold() -> None:
    """Call a line lost as soon as its request is consumed."""
    verdict = audit.verdict

    def hasty(**facts: Any) -> Any:
        return verdict(**(facts | {"end_when_consumed": 0}))

    setattr(auditor, "verdict", hasty)  # noqa: B010 - a name that the module imported


RULES: dict[str, Callable[[], None]] = {
    "commit-after-completion": _commit_early,
    "bitmap": _no_bitmap,
    "create-only": _plain_put,
    "audit": _no_audit,
    "resend": _no_resend,
    "isolation": _no_isolation,
    "told-before-garbage": _collect_untold,
    "counts-after-recovery": _no_counts_after_recovery,
    "one-validation": _validate_twice,
    "fold-before-proof": _audit_without_fold,
}


# What every plan of a twin has, where the situation that needs its rule is a rare one.
SITUATIONS: dict[str, dict[str, Any]] = {
    "told-before-garbage": {"collects_garbage": True, "has_rival": False, "fault_rate": 0.05, "num_faults": 9},
    "one-validation": {"cancels": {0: 4.0}, "disaster_at": 4.5, "sizes": [17]},
}


def without(rule: str) -> None:
    """Remove a rule for the rest of this process."""
    RULES[rule]()
    situation = SITUATIONS.get(rule, {})
    make_plan = plan.make_plan
    setattr(world, "make_plan", lambda rng: replace(make_plan(rng), **situation))  # noqa: B010 - an imported name
