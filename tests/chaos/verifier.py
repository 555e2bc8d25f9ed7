"""Does what came back answer what was sent? Reads files, batch objects and the log; imports nothing of ours.

The engine of a chaos run answers each request with its own text, so an answer that belongs to another line is seen.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

TERMINAL = ("completed", "failed", "expired", "cancelled")
# Lines that share a key of the completions topic.
SHARD_LINES = 50_000
# Why a line may have no answer, by how its batch ended.
NOT_RUN = {"cancelled": {"batch_cancelled"}, "expired": {"batch_expired"}, "completed": set()}


@dataclass(frozen=True)
class LogRecord:
    """One record of the completions topic, as a foreign client sees it."""

    partition: int
    offset: int
    timestamp_ms: int
    headers: Mapping[str, bytes]
    value: bytes


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `kind` is lost, doubled, crossed, order, counts, changed, cancel, open or metrics."""

    kind: str
    batch_id: str
    text: str


def check_files(sent: bytes, batch: Mapping[str, Any], output: bytes, errors: bytes) -> list[Finding]:
    """V1 and V2: every line once, in input order, with its own answer; counts as in the files.

    Lines are looked at one by one, so that a batch of a million fits into memory.
    """
    batch_id, status, counts = batch["id"], batch["status"], batch["request_counts"]
    if counts["total"] == 0 and status in ("cancelled", "expired"):
        return [Finding("doubled", batch_id, "ended before validation, and has lines")] if output or errors else []
    number: dict[str, int] = {}
    texts: list[str] = []
    for line in sent.splitlines():
        request = json.loads(line)
        number[request["custom_id"]] = len(texts)
        texts.append(request["body"]["messages"][0]["content"])
    found: list[Finding] = []
    seen: Counter[str] = Counter()
    ids: Counter[str] = Counter()
    num_lines = []
    for content in (output, errors):
        last, lines = -1, 0
        for line in content.splitlines():
            entry = _entry(line)
            if entry is None:
                found.append(Finding("changed", batch_id, f"no line of a result: {line[:80]!r}"))
                continue
            at = number.get(entry["custom_id"], -1)
            found += _check_entry(entry, batch_id, status, texts[at] if content is output else None)
            if at <= last:
                found.append(Finding("order", batch_id, f"{entry['custom_id']} is not in input order"))
            seen[entry["custom_id"]] += 1
            ids[entry["id"]] += 1
            last, lines = at, lines + 1
        num_lines.append(lines)
    found += [Finding("lost", batch_id, custom_id) for custom_id in number if custom_id not in seen]
    found += [Finding("doubled", batch_id, c) for c, times in seen.items() if times > 1 or c not in number]
    found += [Finding("doubled", batch_id, f"id {i}") for i, times in ids.items() if times > 1]
    not_run = num_lines[1] if status in ("cancelled", "expired") else 0
    told = counts["total"], counts["completed"], counts["failed"] + not_run
    if told != (len(texts), *num_lines) or sum(num_lines) != len(texts):
        found.append(Finding("counts", batch_id, f"{counts}, files have {num_lines}"))
    return found


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        return entry if {"id", "custom_id", "response", "error"} <= set(entry) else None
    except (ValueError, TypeError):
        return None


def _check_entry(entry: Mapping[str, Any], batch_id: str, status: str, text: str | None) -> list[Finding]:
    """One line of the output file, whose request had this text, or of the error file."""
    if text is not None:
        answer = entry["response"]["body"]["choices"][0]["message"]["content"]
        return [] if answer == text else [Finding("crossed", batch_id, entry["custom_id"])]
    code = (entry["error"] or {}).get("code")
    is_legal = code in NOT_RUN.get(status, set())
    return [] if is_legal else [Finding("lost", batch_id, f"{entry['custom_id']} ended as {code}")]


def check_against_log(batch: Mapping[str, Any], output: bytes, log: Iterable[LogRecord]) -> list[Finding]:
    """V5: the first completion of each line before its shard's end record is in the file, and nothing after it."""
    first: dict[int, bytes] = {}
    ended: set[int] = set()
    for record in log:
        if record.headers.get("batch") != batch["id"].encode():
            continue
        if record.headers["kind"] != b"line":
            ended.add(int(record.headers.get("shard", b"0")))
        elif (line := int(record.headers["line"])) // SHARD_LINES not in ended:
            first.setdefault(line, record.value)
    expected = [first[line] for line in sorted(first) if json.loads(first[line])["error"] is None]
    found = output.splitlines(keepends=True)
    if found == expected:
        return []
    return [Finding("cancel", batch["id"], f"{len(set(found) ^ set(expected))} lines are not what the log says")]


class Watch:
    """What was seen during the run: counts never go down, and what was published never changes (V2, V3)."""

    def __init__(self) -> None:
        self._answered: dict[str, int] = {}
        self._hashes: dict[str, str] = {}
        self.findings: list[Finding] = []

    def see_counts(self, batch: Mapping[str, Any]) -> None:
        """Note a batch object."""
        counts = batch["request_counts"]
        answered = counts["completed"] + counts["failed"]
        if answered < self._answered.get(batch["id"], 0):
            self.findings.append(Finding("counts", batch["id"], f"went down from {self._answered[batch['id']]}"))
        self._answered[batch["id"]] = answered

    def see_content(self, name: str, content: bytes) -> None:
        """Note a published object: a result file or a segment."""
        digest = hashlib.sha256(content).hexdigest()
        if self._hashes.setdefault(name, digest) != digest:
            self.findings.append(Finding("changed", name, "another content than when first seen"))


@dataclass(frozen=True)
class LogFigures:
    """What the completions log tells of a run."""

    num_lines: int
    num_repeated: int
    times_ms: list[int]


def figures_of(log: Iterable[LogRecord], injected: Counter[tuple[bytes, bytes]]) -> LogFigures:
    """Lines answered, answers that repeat one (those that the run itself injected apart), and when each came."""
    answers = Counter((r.headers["batch"], r.headers["line"]) for r in log if r.headers.get("kind") == b"line")
    repeated = sum(max(0, times - 1 - injected[key]) for key, times in answers.items())
    times_ms = sorted(r.timestamp_ms for r in log if r.headers.get("kind") == b"line")
    return LogFigures(len(answers), repeated, times_ms)
