"""Chains of older logs come before those of the logs that took over from them."""

import msgspec

from services.collector.chains import Lineage, chains_in, lineage_of
from shared.object_store import lineage_key, segment_key
from tests.fakes import MemoryObjectStore


async def test_logs_are_ordered_by_what_was_recovered_into_them() -> None:
    store = MemoryObjectStore()
    for log_id in ("a", "b", "c"):
        store.objects |= {segment_key(log_id, "completions", partition, 0): b"" for partition in (0, 1)}
    store.objects[lineage_key("b")] = msgspec.json.encode(Lineage(("c",)))
    store.objects[lineage_key("a")] = msgspec.json.encode(Lineage(("c", "b")))

    found = await chains_in(store)

    assert [(name.log_id, name.partition) for name in found] == [(i, p) for i in ("c", "b", "a") for p in (0, 1)]
    assert await lineage_of(store, "c") == ()
