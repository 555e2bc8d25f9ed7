"""Progress is told once per interval, and at once when a shard is complete."""

from services.collector.progress import Progress
from shared.messages import ShardProgressed

SHARD = ("b", 0)


def counts(completed: int, answered_at: int | None = None) -> ShardProgressed:
    return ShardProgressed(completed=completed, failed=0, answered_at=answered_at)


def test_first_counts_go_at_once_and_later_ones_wait_for_the_interval() -> None:
    progress = Progress(interval_s=1.0)
    progress.note(SHARD, counts(1))
    assert progress.due(10.0) == [(SHARD, counts(1))]

    progress.note(SHARD, counts(2))
    progress.note(SHARD, counts(3))
    assert progress.due(10.5) == []

    assert progress.due(11.0) == [(SHARD, counts(3))], "told although nothing new came"
    assert progress.due(12.5) == []


def test_complete_shard_does_not_wait() -> None:
    progress = Progress(interval_s=1.0)
    progress.note(SHARD, counts(1))
    progress.due(10.0)

    progress.note(SHARD, counts(5, answered_at=7))

    assert progress.due(10.1) == [(SHARD, counts(5, answered_at=7))]
