"""When is a shard's progress told? PURE: durable counts in, at most one facet per shard and interval out."""

from services.collector.ledger import ShardId
from shared.messages import ShardProgressed


class Progress:
    """Counts that are durable and not told yet."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._waiting: dict[ShardId, ShardProgressed] = {}
        self._told_at: dict[ShardId, float] = {}

    def note(self, shard_id: ShardId, counts: ShardProgressed) -> None:
        """These counts are in the store now; they replace what waits for the same shard."""
        self._waiting[shard_id] = counts

    def due(self, now_s: float) -> list[tuple[ShardId, ShardProgressed]]:
        """What is to be told now: complete shards at once, the others once per interval."""
        ready = [item for item in self._waiting.items() if self._is_due(*item, now_s)]
        # What was told longer ago than the interval holds nothing back, so it need not be remembered.
        self._told_at = {s: told_at for s, told_at in self._told_at.items() if now_s - told_at < self._interval_s}
        for shard_id, _ in ready:
            del self._waiting[shard_id]
            self._told_at[shard_id] = now_s
        return ready

    def _is_due(self, shard_id: ShardId, counts: ShardProgressed, now_s: float) -> bool:
        told_at = self._told_at.get(shard_id)
        return counts.answered_at is not None or told_at is None or now_s - told_at >= self._interval_s
