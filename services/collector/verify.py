"""Do a batch's segments, files and records agree? SHELL: read from the store alone, nothing is changed.

Walks every chain that has lines of the batch, checks that each segment follows the one before it (offsets and SHA-256),
folds the entries through the ledger, puts the files together anew and compares them byte for byte with those in the
store, and counts against the terminal record.
"""

import hashlib
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from services.collector.chains import ChainName, chains_in
from services.collector.finalizer import SHARD_RECORD, batch_status
from services.collector.ledger import Dropped, Ledger
from services.collector.result_files import KINDS, LineIndex, put_together
from services.collector.segment_chain import FIRST_SHA256, ChainedSegment, SegmentChain
from shared import identifiers
from shared.claim_check import RESULT_BYTES_MAX
from shared.error_codes import add_codes
from shared.errors import HeadraceError, ObjectNotFound, ObjectStoreError
from shared.jsonl import Line, LineReader
from shared.messages import BatchClosed, BatchCreated, BatchDispatched, ShardClosed
from shared.object_store import (
    CHAIN_STARTS,
    ObjectStore,
    file_key,
    final_key,
    manifest_key,
    read_json,
    sha256_of,
    shard_key,
    validated_key,
)
from shared.segment import CorruptSegment
from shared.topics import num_shards


class _CustomId(msgspec.Struct):
    custom_id: str


_custom_id_decoder = msgspec.json.Decoder(_CustomId)

# How often a batch is looked at whose chains get shorter meanwhile; a collector does that once in minutes.
LOOKS_MAX = 5


@dataclass(slots=True)
class Report:
    """What was checked and what does not agree."""

    batch_id: str
    status: str = "unknown"
    checked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def expect(self, what: str, *, found: object, expected: object) -> None:
        """Note one comparison."""
        if found == expected:
            self.checked.append(f"{what}: {found}")
        else:
            self.problems.append(f"{what}: {found}, expected {expected}")


@dataclass(frozen=True, slots=True)
class Folded:
    """The batch as one log's chains tell it."""

    log_id: str
    ledger: Ledger
    indexes: dict[tuple[str, int], LineIndex]
    shortened: list[ChainName]


class Verifier:
    """Checks batches of one store."""

    def __init__(self, store: ObjectStore, scratch_dir: Path | None = None) -> None:
        self._store = store
        self._scratch_dir = scratch_dir

    async def verify(self, batch_id: str) -> Report:
        """Check one batch; a report without problems means that everything in the store agrees.

        A collector may remove segments while they are read, which looks like a loss: then all is looked at again.
        """
        report = Report(batch_id)
        try:
            for _ in range(LOOKS_MAX):
                starts = await self._store.keys(CHAIN_STARTS)
                report = await self._look(batch_id)
                if not report.problems or starts == await self._store.keys(CHAIN_STARTS):
                    break
        except ObjectStoreError as error:
            report.problems.append(str(error))
        return report

    async def _look(self, batch_id: str) -> Report:
        report = Report(batch_id)
        try:
            await self._verify(batch_id, report)
        except ObjectStoreError as error:
            report.problems.append(str(error))
        return report

    async def _verify(self, batch_id: str, report: Report) -> None:
        manifest = await read_json(self._store, manifest_key(batch_id), BatchCreated)
        if manifest is None:
            report.problems.append("no batch of this id was ever created: it has no manifest")
            return
        final = await read_json(self._store, final_key(batch_id), BatchClosed)
        validated = await read_json(self._store, validated_key(batch_id), BatchDispatched)
        refused = validated is not None and validated.failed_at is not None
        report.status = final.status if final else "failed" if refused else "unfinished"
        folds = await self._fold_chains(batch_id, report)
        if final is None:
            return
        total = validated.total if validated else final.total
        report.expect("lines in the terminal record", found=final.total, expected=total)
        report.expect(
            "completed + failed + not run", found=final.completed + final.failed + final.not_run, expected=total
        )
        await self._check_shard_records(final, report)
        closing = [fold for fold in folds if _closes(fold, final)]
        for fold in closing:
            await self._check_files_against_chain(manifest, final, fold, report)
        if not closing and await self._store.keys(CHAIN_STARTS):
            report.checked.append("segments of the batch were collected, only its files are checked")
        elif not closing:
            report.problems.append("no chain tells the batch whole: segments of it are missing")
        await self._check_files_against_input(manifest, final, report)

    async def _fold_chains(self, batch_id: str, report: Report) -> list[Folded]:
        """Check and fold the chains of each log that has lines of the batch."""
        folds: dict[str, Folded] = {}
        for name in await chains_in(self._store):
            fold = folds.setdefault(name.log_id, Folded(name.log_id, Ledger(), {}, []))
            try:
                await self._fold_chain(name, batch_id, fold, report)
            except (HeadraceError, CorruptSegment) as error:
                report.problems.append(f"chain {name.log_id}/{name.topic}/{name.partition}: {error}")
        return [fold for fold in folds.values() if fold.ledger.shards]

    async def _fold_chain(self, name: ChainName, batch_id: str, fold: Folded, report: Report) -> None:
        chain = SegmentChain(self._store, name.log_id, name.topic, name.partition)
        segments = [segment async for segment in chain.walk()]
        if not any(batch.id == batch_id for segment in segments for batch in segment.footer.batches):
            return
        previous: str | None = None
        for segment in segments:
            starts_here = previous is None and segment.footer.previous_sha256 != FIRST_SHA256
            if previous != segment.footer.previous_sha256 and previous is not None:
                report.problems.append(f"{segment.key} does not follow the segment before it: its bytes were changed")
            if starts_here:
                report.checked.append(f"{segment.key} begins the chain, older segments were collected")
                fold.shortened.append(name)
            previous = await sha256_of(self._store, segment.key)
            _fold_segment(segment, batch_id, fold, report)
        report.checked.append(f"chain {name.log_id}/{name.topic}/{name.partition}: {len(segments)} segments linked")

    async def _check_shard_records(self, final: BatchClosed, report: Report) -> None:
        if num_shards(final.total) == 1:
            return
        records = []
        for number in range(num_shards(final.total)):
            record = await read_json(self._store, shard_key(report.batch_id, number, SHARD_RECORD), ShardClosed)
            if record is None:
                report.problems.append(f"shard {number} has no record")
            else:
                records.append(record)
        report.expect("completed over shards", found=sum(r.completed for r in records), expected=final.completed)
        report.expect("failed over shards", found=sum(r.failed for r in records), expected=final.failed)

    async def _check_files_against_chain(
        self, manifest: BatchCreated, final: BatchClosed, fold: Folded, report: Report
    ) -> None:
        expected = {kind: hashlib.sha256() for kind in KINDS}
        shards = [fold.ledger.shards[manifest.id, number] for number in range(num_shards(final.total))]
        for shard in shards:
            index = fold.indexes.get((manifest.id, shard.number), LineIndex())
            with tempfile.TemporaryDirectory(prefix="headrace-", dir=self._scratch_dir) as scratch:
                files = await put_together(self._store, manifest, shard, index, Path(scratch))
                for kind in KINDS:
                    with files.paths[kind].open("rb") as content:
                        while chunk := content.read(1024 * 1024):
                            expected[kind].update(chunk)
        for kind in KINDS:
            key = file_key(identifiers.result_file_id(manifest.id, kind))
            report.expect(f"{kind} file", found=await self._sha256_of_file(key), expected=expected[kind].hexdigest())
        report.expect("how it ended", found=final.status, expected=batch_status({s.how_closed or "" for s in shards}))
        report.expect("completed in the chain", found=sum(s.completed for s in shards), expected=final.completed)
        report.expect("failed in the chain", found=sum(s.failed for s in shards), expected=final.failed)
        report.expect(
            "output tokens in the chain",
            found=sum(shard.usage.output_tokens for shard in shards),
            expected=final.usage.output_tokens,
        )

    async def _check_files_against_input(self, manifest: BatchCreated, final: BatchClosed, report: Report) -> None:
        """Every custom_id of the input once in one of the files, and as many lines as the record says."""
        wanted = await self._custom_ids(file_key(manifest.input_file_id))
        found: Counter[str] = Counter()
        expected = {"output": final.completed, "error": final.failed + final.not_run}
        for kind in KINDS:
            ids = await self._custom_ids(file_key(identifiers.result_file_id(manifest.id, kind)))
            report.expect(f"lines in the {kind} file", found=ids.total(), expected=expected[kind])
            found += ids
        if not wanted:
            report.checked.append("the input file is gone, its lines cannot be compared")
        elif final.total:
            report.expect("lines lost", found=(wanted - found).total(), expected=0)
            report.expect("lines doubled or foreign", found=(found - wanted).total(), expected=0)

    async def _custom_ids(self, key: str) -> Counter[str]:
        reader, ids = LineReader(RESULT_BYTES_MAX), Counter[str]()
        try:
            async for chunk in self._store.stream(key):
                ids.update(map(_custom_id_of, reader.feed(chunk)))
        except ObjectNotFound:
            return ids
        ids.update(map(_custom_id_of, reader.finish()))
        return ids

    async def _sha256_of_file(self, key: str) -> str:
        try:
            return await sha256_of(self._store, key)
        except ObjectNotFound:
            return hashlib.sha256().hexdigest()  # a file without lines is not created


def _fold_segment(segment: ChainedSegment, batch_id: str, fold: Folded, report: Report) -> None:
    for entry in segment.entries:
        if entry.batch_id != batch_id:
            continue
        completion = entry.as_completion()
        if isinstance(verdict := fold.ledger.apply(completion), Dropped):
            report.problems.append(f"{segment.key}: {entry} was kept, but is {verdict.reason}")
        elif entry.is_line:
            shard = fold.ledger.shards[completion.shard_id]
            fold.indexes.setdefault(completion.shard_id, LineIndex()).add(segment.key, entry)
    for batch in segment.footer.batches:
        if batch.id == batch_id:
            shard = fold.ledger.shards[batch.id, batch.shard]
            shard.usage = shard.usage.plus(batch.usage)
            add_codes(shard.error_codes, batch.error_codes)


def _closes(fold: Folded, final: BatchClosed) -> bool:
    """Whether the chains of this log tell the batch whole; of a shortened chain the first part may be missing."""
    shards = [shard for _, shard in sorted(fold.ledger.shards.items())]
    if len(shards) < num_shards(final.total) or any(shard.how_closed is None for shard in shards):
        return False
    return not fold.shortened or sum(shard.num_answered for shard in shards) == final.completed + final.failed


def _custom_id_of(line: Line) -> str:
    """The line's custom_id; a text that nobody uses for a line that is none."""
    try:
        return _custom_id_decoder.decode(line.value or b"").custom_id
    except msgspec.MsgspecError:
        return f"(unreadable line {line.number + 1})"
