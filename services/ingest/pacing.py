"""Whose lines are dispatched next, and how many? PURE.

The backlog stays in the input files: at most so many lines of a batch, and of a tenant, are on the request topics.
Every tenant has its part of each round; within one the highest priority goes first, then the earliest deadline.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from shared.messages import BatchCreated

# Lower comes first.
Urgency = tuple[int, int, str]


def urgency(created: BatchCreated) -> Urgency:
    """The order of one tenant's batches: by priority, then by deadline."""
    return -created.priority, created.expires_at, created.id


@dataclass(frozen=True, slots=True)
class Runnable:
    """A batch with lines to dispatch; `outstanding` = dispatched and not yet durable in the spool."""

    batch_id: str
    tenant: str
    urgency: Urgency
    remaining: int
    outstanding: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Lines at once."""

    per_batch: int
    per_tenant: int
    chunk: int


@dataclass(frozen=True, slots=True)
class Share:
    """So many lines of this batch may go now."""

    batch_id: str
    num_lines: int


def shares(batches: Sequence[Runnable], limits: Limits, tenant_outstanding: dict[str, int]) -> list[Share]:
    """One round: at most one chunk per tenant, of its most urgent batches; many small ones share it."""
    by_tenant: dict[str, list[Runnable]] = defaultdict(list)
    for batch in batches:
        by_tenant[batch.tenant].append(batch)
    round_of_shares = []
    for tenant, queue in by_tenant.items():
        left = min(limits.chunk, limits.per_tenant - tenant_outstanding.get(tenant, 0))
        for batch in sorted(queue, key=lambda b: b.urgency) if left > 0 else ():
            num_lines = min(batch.remaining, limits.per_batch - batch.outstanding, left)
            if num_lines > 0:
                round_of_shares.append(Share(batch.batch_id, num_lines))
                left -= num_lines
            if left == 0:
                break
    return round_of_shares
