"""Which chains are in a store, and in which order were their logs written? SHELL: reads keys and lineages only."""

from dataclasses import dataclass

import msgspec

from shared.object_store import ObjectStore, lineage_key, read_json


class Lineage(msgspec.Struct, frozen=True):
    """The logs that were recovered into another one, oldest first."""

    ancestors: tuple[str, ...]


@dataclass(frozen=True, slots=True, order=True)
class ChainName:
    """The chain of one partition of a completions topic in one log."""

    log_id: str
    topic: str
    partition: int


async def chains_in(store: ObjectStore) -> list[ChainName]:
    """Every chain of the store, those of older logs first."""
    found = set()
    for key in await store.keys("spool/"):
        _, log_id, topic, partition, _ = key.split("/")
        found.add(ChainName(log_id, topic, int(partition)))
    # A log that others were recovered into is younger than they are, so it has more ancestors.
    num_ancestors = {name.log_id: len(await lineage_of(store, name.log_id)) for name in found}
    return sorted(found, key=lambda name: (num_ancestors[name.log_id], name))


async def lineage_of(store: ObjectStore, log_id: str) -> tuple[str, ...]:
    """The logs that were recovered into this one, oldest first; empty for a first log."""
    lineage = await read_json(store, lineage_key(log_id), Lineage)
    return lineage.ancestors if lineage else ()
