"""What happens in a run? A function of the seed."""

import random
from dataclasses import dataclass


@dataclass
class Plan:
    """What a seed asks for."""

    sizes: list[int]
    num_workers: int
    cancels: dict[int, float]
    expiries: dict[int, float]
    commit_jump_at: float | None
    disaster_at: float | None
    clock_jump_at: float | None
    poison: tuple[int, int] | None
    fault_rate: float
    num_faults: int
    has_rival: bool
    has_two_owners: bool
    collects_garbage: bool


def make_plan(rng: random.Random) -> Plan:
    """Most runs have a few faults of the usual kinds; some have one of the rare ones."""
    sizes = [rng.choice([1, 1, 2, 2, 3, 5, 9, 17]) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    batches = range(len(sizes))
    return Plan(
        sizes=sizes,
        num_workers=rng.choice([1, 1, 2]),
        cancels={n: rng.random() * 12 for n in batches if rng.random() < 0.15},
        expiries={n: rng.random() * 12 for n in batches if rng.random() < 0.15},
        commit_jump_at=rng.random() * 10 if rng.random() < 0.1 else None,
        disaster_at=2 + rng.random() * 10 if rng.random() < 0.08 else None,
        clock_jump_at=rng.random() * 20 if rng.random() < 0.1 else None,
        poison=(rng.randrange(len(sizes)), 0) if rng.random() < 0.05 else None,
        fault_rate=rng.choice([0.0, 0.02, 0.05, 0.1]),
        num_faults=rng.randint(0, 12),
        has_rival=rng.random() < 0.25,
        has_two_owners=rng.random() < 0.1,
        collects_garbage=rng.random() < 0.3,
    )
