"""What must hold in a simulated run? Looks at the log and the store only, never at what a service believes."""

import json
from collections import Counter
from typing import TYPE_CHECKING

from aiokafka import TopicPartition

from shared import identifiers
from shared.messages import BatchClosed, Facet, ShardProgressed, ShardRedriven, decode_facet
from shared.object_store import file_key
from shared.record_headers import read_completion_headers, read_request_headers
from shared.settings import KafkaSettings
from shared.topics import SHARD_LINES, Topics, num_shards, partition_of
from tests.simulation.log import Log, Record

if TYPE_CHECKING:
    from tests.simulation.world import World

KAFKA = KafkaSettings(batches_partitions=1, request_partitions=3, completions_partitions=2)
TOPICS = Topics(KAFKA)
BATCHES = TopicPartition(TOPICS.batches.name, 0)


class Broken(AssertionError):
    """An invariant does not hold."""


class Invariants:
    """V1 to V8 of the design for one run."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def _facets(self, log: Log) -> list[tuple[str, str, Facet]]:
        found = []
        for record in log.records[BATCHES]:
            batch_id, _, name = (record.key or b"").decode().partition("/")
            found.append((batch_id, name, decode_facet(record.value or b"")))
        return found

    def closed(self) -> dict[str, BatchClosed]:
        return {batch: facet for batch, _, facet in self._facets(self._world.log) if isinstance(facet, BatchClosed)}

    def check_commit(self, tp: TopicPartition, offset: int) -> None:
        """V4 and V7: nothing is committed over that has no completion."""
        if self._world.jumped:
            return
        for record in self._world.log.records[tp][self._world.checked[tp] : offset]:
            headers = read_request_headers(record.headers)
            if (headers.batch_id, headers.line) not in self._world.done:
                self._world.problems.append(f"V4: {tp} committed to {offset}, {record.offset} has no completion")
        self._world.checked[tp] = max(self._world.checked[tp], offset)

    def note_completion(self, record: Record) -> None:
        if record.topic == TOPICS.completions.name:
            headers = read_completion_headers(record.headers)
            if headers.kind == "line":
                self._world.done.add((headers.batch_id, headers.line))

    def check_now(self) -> None:
        """What must hold at every moment; raises Broken."""
        if self._world.store.overwritten:
            raise Broken(f"V3: {self._world.store.overwritten[0]} was changed")
        if self._world.problems:
            raise Broken(self._world.problems[0])

    def check(self) -> None:
        """All invariants; raises Broken with the first that does not hold."""
        self.check_now()
        closed = self.closed()
        for number, batch_id in enumerate(self._world.batch_ids):
            self._check_batch(number, batch_id, closed[batch_id])
        self._check_progress()
        if not self._world.jumped and self._num_redriven():
            raise Broken(f"V8: {self._num_redriven()} lines were sent again although none was lost")

    def _num_redriven(self) -> int:
        logs = [*self._world.old_logs, self._world.log]
        return sum(f.num_lines for log in logs for _, _, f in self._facets(log) if isinstance(f, ShardRedriven))

    def _check_progress(self) -> None:
        """V2: what is told never exceeds the batch; that it never goes down is the reader's maximum."""
        for log in [*self._world.old_logs, self._world.log]:
            for batch_id, _, facet in self._facets(log):
                size = self._world.plan.sizes[self._world.batch_ids.index(batch_id)]
                if isinstance(facet, ShardProgressed) and facet.completed + facet.failed > size:
                    raise Broken(f"V2: progress of {batch_id} exceeds its {size} lines")

    def _check_batch(self, number: int, batch_id: str, closed: BatchClosed) -> None:
        size = self._world.plan.sizes[number]
        output, errors = (self._result(batch_id, kind) for kind in ("output", "error"))
        if closed.total == 0:
            if output or errors or closed.status == "completed":
                raise Broken(f"V1: {batch_id} ended before it was validated and has lines")
            return
        ids = Counter(json.loads(line)["custom_id"] for line in output + errors)
        if ids != Counter(f"c{line}" for line in range(size)):
            raise Broken(f"V1: {batch_id} has {dict(ids)}, expected each of {size} lines once")
        for lines in (output, errors):
            numbers = [int(json.loads(line)["custom_id"][1:]) for line in lines]
            if numbers != sorted(numbers):
                raise Broken(f"V1: {batch_id} is not in input order")
        if (closed.completed, closed.failed + closed.not_run) != (len(output), len(errors)):
            raise Broken(f"V2: {batch_id} has {len(output)} and {len(errors)} lines, its record says {closed}")
        self._check_content(number, batch_id, closed, output, errors)

    def _line_of(self, record: Record) -> bytes:
        """A completion's line, from the record or from where it says that it lies."""
        claim = dict(record.headers).get("claim")
        return self._world.store.objects[json.loads(claim)["key"]] if claim else record.value or b""

    def _check_content(
        self, number: int, batch_id: str, closed: BatchClosed, output: list[bytes], errors: list[bytes]
    ) -> None:
        """V5 and crossed answers: the first completion of each line before the end of its shard is in the files."""
        expected: dict[int, bytes] = {}
        statuses, usage = set(), 0
        for shard in range(num_shards(closed.total)):
            lines, how = self._fold_shard(batch_id, shard, closed.total)
            expected |= {line: self._line_of(record) for line, record in lines.items()}
            usage += sum(read_completion_headers(record.headers).usage.output_tokens for record in lines.values())
            statuses.add(how)
        found = {int(json.loads(line)["custom_id"][1:]): line for line in output + errors if was_run(line)}
        expected = {n: line for n, line in expected.items() if was_run(line)}
        if found != expected:
            wrong = {n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n)}
            raise Broken(f"V5: {batch_id} lines {sorted(wrong)} are not what the log says")
        if closed.usage.output_tokens != usage:
            raise Broken(f"V2: {batch_id} reports {closed.usage.output_tokens} tokens, its lines have {usage}")
        how_ended = next((how for how in ("cancelled", "expired") if how in statuses), "completed")
        if closed.status != how_ended:
            raise Broken(f"V5: {batch_id} is {closed.status}, the log says {how_ended}")
        for line in output:
            entry = json.loads(line)
            if entry["response"]["body"]["text"] != f"text {number} {entry['custom_id'][1:]}":
                raise Broken(f"V1: crossed answer: {line!r}")

    def _fold_shard(self, batch_id: str, shard: int, total: int) -> tuple[dict[int, Record], str]:
        """First completion of each line up to the shard's end, over all logs, oldest first."""
        lines: dict[int, Record] = {}
        key = f"{batch_id}#{shard}".encode()
        tp = TopicPartition(TOPICS.completions.name, partition_of(key, TOPICS.completions.partitions))
        # A line that was answered in a lost log counts only if a segment kept it, and then it was published again.
        for record in self._world.log.records[tp]:
            headers = read_completion_headers(record.headers)
            if headers.shard_id != (batch_id, shard):
                continue
            if headers.kind != "line":
                return lines, {"cancel": "cancelled", "deadline": "expired"}[headers.kind]
            lines.setdefault(headers.line, record)
            if len(lines) == min(SHARD_LINES, total - shard * SHARD_LINES):
                return lines, "completed"
        if self._world.old_logs and self._final_before_disaster(batch_id):
            return self._fold_old_shard(batch_id, shard, total)
        raise Broken(f"V5: {batch_id}#{shard} is closed, but nothing in the log closes it")

    def _final_before_disaster(self, batch_id: str) -> bool:
        return not any(
            read_completion_headers(record.headers).batch_id == batch_id
            for n in range(TOPICS.completions.partitions)
            for record in self._world.log.records[TopicPartition(TOPICS.completions.name, n)]
        )

    def _fold_old_shard(self, batch_id: str, shard: int, total: int) -> tuple[dict[int, Record], str]:
        world = self._world
        logs, world.log = (world.log, world.old_logs), world.old_logs[-1]
        world.old_logs = []
        try:
            return self._fold_shard(batch_id, shard, total)
        finally:
            world.log, world.old_logs = logs

    def _result(self, batch_id: str, kind: str) -> list[bytes]:
        return self._world.store.objects.get(file_key(identifiers.result_file_id(batch_id, kind)), b"").splitlines(True)


def was_run(line: bytes) -> bool:
    """Whether a line is an answer, and not the notice that there is none because the batch ended."""
    return b"batch_cancelled" not in line and b"batch_expired" not in line
