"""Is a line lost? PURE: a proof, not a timeout.

A worker commits an offset only after the completions of everything before it were acknowledged. So when the group has
committed past every request that the dispatch cursor covers, and then the collector has folded the completions log up
to where it ended at that moment, a line below the cursor that has no completion will never get one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.messages import BatchDispatched, ShardRedriven

ATTEMPTS_MAX = 5


@dataclass(frozen=True, slots=True)
class Unproven:
    """Requests are still to be consumed, or completions still to be folded."""


@dataclass(frozen=True, slots=True)
class Consumed:
    """Every request was consumed: note where the completions log ends now, and look again when it is folded."""


@dataclass(frozen=True, slots=True)
class Redrive:
    """What is missing now is lost: send it again as this attempt."""

    attempt: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Lost again and again: the lines end as error lines."""


Verdict = Unproven | Consumed | Redrive | GiveUp
UNPROVEN: Final = Unproven()


def requests_of(dispatch: BatchDispatched, redriven: ShardRedriven | None) -> dict[str, int]:
    """The last request offset per `topic/partition` that a proof has to see consumed."""
    offsets = dict(dispatch.highest_offsets)
    for partition, offset in (redriven.highest_offsets if redriven else {}).items():
        offsets[partition] = max(offsets.get(partition, -1), offset)
    return offsets


def verdict(
    *,
    requests: Mapping[str, int],
    committed: Mapping[str, int],
    folded_to: int,
    end_when_consumed: int | None,
    redriven: ShardRedriven | None,
) -> Verdict:
    """Judge a shard with missing lines.

    `committed` is the group's next offset per `topic/partition`, `folded_to` the next offset of the completions
    partition that the ledger has not seen, `end_when_consumed` the end of that partition noted after an earlier
    Consumed.
    """
    if any(committed.get(partition, -1) <= offset for partition, offset in requests.items()):
        return UNPROVEN
    if end_when_consumed is None:
        return Consumed()
    if folded_to < end_when_consumed:
        return UNPROVEN
    attempt = redriven.attempt if redriven else 1
    return Redrive(attempt + 1) if attempt < ATTEMPTS_MAX else GiveUp()
