"""Where do the lines of a batch lie that come one by one? SHELL: in a chain of create-only chunks, until it is sealed.

A chunk is named after its first line and byte, so its name is taken as soon as anybody has written it: two writers
cannot both go on, and whoever loses reads what the other wrote. An empty chunk is the end of the chain: behind it
nothing can be written, so how many lines a batch has is decided once, by whoever ends it first.
"""

from collections.abc import AsyncIterator, Sequence

import msgspec

from shared.claim_check import REQUEST_BYTES_MAX
from shared.errors import ObjectExists, ObjectNotFound
from shared.jsonl import Line, LineReader
from shared.object_store import ObjectStore


class Chunk(msgspec.Struct, frozen=True):
    """A chunk: the lines of the batch from `first_line` on, which begins at byte `first_byte` of all of them."""

    first_line: int
    first_byte: int

    def key(self, batch_id: str) -> str:
        """Keys sort by line."""
        return f"{prefix_of(batch_id)}{self.first_line:010d}-{self.first_byte:016d}"


class StreamEnd(msgspec.Struct, frozen=True):
    """Where a chain ends for now, or for good when it `is_sealed`."""

    num_lines: int
    num_bytes: int
    is_sealed: bool


def prefix_of(batch_id: str) -> str:
    """Common prefix of a batch's chunks."""
    return f"streams/{batch_id}/"


class LineStream:
    """The chain of one batch."""

    def __init__(self, store: ObjectStore, batch_id: str) -> None:
        self._store = store
        self._batch_id = batch_id

    async def append(self, at: Chunk, lines: Sequence[bytes]) -> Chunk:
        """Write lines (without line endings) at the end, durable on return; where the next ones go.

        Raises ObjectExists when somebody else has written there.
        """
        assert lines, "an empty chunk is the end"
        data = b"".join(line + b"\n" for line in lines)
        await self._store.create(at.key(self._batch_id), data)
        return Chunk(at.first_line + len(lines), at.first_byte + len(data))

    async def seal(self) -> StreamEnd:
        """Let nothing more be written, and say what there is; the same whoever does it and how often."""
        while not (end := await self.end()).is_sealed:
            try:
                await self._store.create(Chunk(end.num_lines, end.num_bytes).key(self._batch_id), b"")
            except ObjectExists:
                continue  # more lines, or another end
        return end

    async def end(self) -> StreamEnd:
        """Where the chain ends."""
        chunks = await self.chunks()
        if not chunks:
            return StreamEnd(0, 0, is_sealed=False)
        last = chunks[-1]
        data = await self._store.read(last.key(self._batch_id))
        num_lines, num_bytes = last.first_line + data.count(b"\n"), last.first_byte + len(data)
        return StreamEnd(num_lines, num_bytes, is_sealed=not data)

    async def chunks(self) -> list[Chunk]:
        """All chunks, in order; an end is one of them."""
        names = [key.rpartition("/")[2] for key in await self._store.keys(prefix_of(self._batch_id))]
        return [Chunk(*map(int, name.split("-"))) for name in names]

    async def lines(self, first_line: int = 0, first_byte: int = 0) -> AsyncIterator[Line]:
        """The lines that there are now from `first_line` on, which begins at `first_byte`. Memory: one chunk."""
        chunk, reader = Chunk(first_line, first_byte), LineReader(REQUEST_BYTES_MAX, first_line, first_byte)
        data = await self._read(chunk)
        if data is None:  # it is not where a chunk begins
            before = [found for found in await self.chunks() if found.first_byte < first_byte]
            if not before:
                return
            chunk = before[-1]
            data = await self._read(chunk)
        while data:
            for line in reader.feed(data[max(0, first_byte - chunk.first_byte) :]):
                yield line
            chunk = Chunk(chunk.first_line + data.count(b"\n"), chunk.first_byte + len(data))
            data = await self._read(chunk)

    async def _read(self, chunk: Chunk) -> bytes | None:
        try:
            return await self._store.read(chunk.key(self._batch_id))
        except ObjectNotFound:
            return None

    async def put_together(self, key: str) -> None:
        """Make all lines one object; no error when that was done before."""
        chunks = await self.chunks()
        parts = [chunk.key(self._batch_id) for chunk in chunks[:-1]] if chunks else []
        try:
            if parts:
                await self._store.concatenate(key, parts)
            else:
                await self._store.create(key, b"")
        except ObjectExists:
            return

    async def remove(self) -> None:
        """Remove the chunks of a sealed chain that is a file now; its end stays, so that it stays sealed."""
        for chunk in (await self.chunks())[:-1]:
            await self._store.delete(chunk.key(self._batch_id))
