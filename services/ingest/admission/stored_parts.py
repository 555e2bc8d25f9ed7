"""What does the store know of the parts of a batch by topic? SHELL: manifests, refusals, and the ids of their lines."""

from dataclasses import dataclass, field

import msgspec

from services.ingest.admission.batch_stream import IDS_BEFORE_MAX
from services.ingest.line_source import read_lines
from services.ingest.line_stream import LineStream
from services.ingest.request_line import custom_id_of, members_of
from services.ingest.validation import decide_once
from shared.errors import ObjectExists, ObjectNotFound, UnavailableError
from shared.identifiers import another_part, input_file_id
from shared.messages import BatchCreated, BatchDispatched, encode
from shared.object_store import ObjectStore, manifest_key, read_json, validated_key

# Of a batch whose parts are very small.
PARTS_BEFORE_MAX = 100
# A chain may grow while it is read.
READ_TRIES = 5


@dataclass(frozen=True, slots=True)
class PartIds:
    """The lines of a part: hashes of their ids that hold within this process, and where they end."""

    hashes: frozenset[int] = field(default_factory=frozenset)
    num_lines: int = 0
    num_bytes: int = 0
    is_sealed: bool = False


class StoredParts:
    """Parts by their batch ids."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def chain(self, batch_id: str) -> LineStream:
        """The lines of a part."""
        return LineStream(self._store, batch_id)

    async def exists(self, batch_id: str) -> bool:
        """Whether somebody created it."""
        return await self._store.size(manifest_key(batch_id)) is not None

    async def create(self, wanted: BatchCreated) -> tuple[BatchCreated, bool]:
        """Make a part durable, and whether this call did; otherwise the one that somebody else made."""
        key = manifest_key(wanted.id)
        try:
            await self._store.create(key, encode(wanted))
        except ObjectExists:
            return msgspec.json.decode(await self._store.read(key), type=BatchCreated), False
        return wanted, True

    async def refuse(self, batch_id: str, outcome: BatchDispatched) -> None:
        """Let a batch fail for good."""
        await decide_once(self._store, batch_id, outcome)

    async def refusal_of(self, batch_id: str) -> BatchDispatched | None:
        """How a batch failed, if it did."""
        outcome = await read_json(self._store, validated_key(batch_id), BatchDispatched)
        return outcome if outcome is not None and outcome.failed_at is not None else None

    async def ids_of(self, batch_id: str) -> PartIds:
        """The lines that a part has now; raises UnavailableError."""
        for _ in range(READ_TRIES):
            try:
                found = await self._read(batch_id)
            except ObjectNotFound:
                continue  # its chunks became a file while they were read
            if found is not None:
                return found
        raise UnavailableError(f"the lines of {batch_id} changed while they were read")

    async def ids_before(self, created: BatchCreated) -> list[int]:
        """The ids of the last lines of the parts before this one, oldest part first; raises UnavailableError."""
        assert created.growth is not None, "a part of a batch by topic"
        name, parts, num_ids = created.growth.name, list[frozenset[int]](), 0
        for part in reversed(range(created.growth.part)):
            if num_ids >= IDS_BEFORE_MAX or len(parts) >= PARTS_BEFORE_MAX:
                break
            found = await self.ids_of(another_part(created.id, created.tenant, name, part))
            parts.append(found.hashes)
            num_ids += len(found.hashes)
        return [id_hash for hashes in reversed(parts) for id_hash in hashes]

    async def _read(self, batch_id: str) -> PartIds | None:
        chain = self.chain(batch_id)
        chunks = await chain.chunks()
        is_file = len(chunks) == 1 and chunks[0].first_line > 0
        end = await chain.end()
        lines = read_lines(self._store, input_file_id(batch_id)) if is_file else chain.lines()
        hashes, num_lines, num_bytes = set(), 0, 0
        try:
            async for line in lines:
                hashes.add(hash(custom_id_of(members_of(line.value or b""))))
                num_lines, num_bytes = line.number + 1, line.end
        except ObjectNotFound:
            if not is_file:
                raise
            num_lines, num_bytes = end.num_lines, end.num_bytes  # its user deleted it
        if (num_lines, num_bytes) != (end.num_lines, end.num_bytes):
            return None
        return PartIds(frozenset(hashes), num_lines, num_bytes, end.is_sealed)
