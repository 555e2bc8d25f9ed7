"""The verifier of the chaos runs finds what it is there for."""

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos.producers import TopicBatch, check_topic_batch
from tests.chaos.verifier import LogRecord, Watch, check_against_log, check_files, figures_of

IDS = ["a", "b", "c"]
SENT = b"\n".join(
    json.dumps({"custom_id": i, "body": {"messages": [{"role": "user", "content": f"text {i}"}]}}).encode() for i in IDS
)


def answer(custom_id: str, text: str | None = None) -> bytes:
    body = {"choices": [{"message": {"content": text or f"text {custom_id}"}}]}
    entry = {"id": f"r-{custom_id}", "custom_id": custom_id, "response": {"body": body}, "error": None}
    return json.dumps(entry).encode() + b"\n"


def error(custom_id: str, code: str) -> bytes:
    entry = {"id": f"r-{custom_id}", "custom_id": custom_id, "response": None, "error": {"code": code}}
    return json.dumps(entry).encode() + b"\n"


def batch(status: str, completed: int, failed: int = 0) -> dict[str, Any]:
    return {"id": "x", "status": status, "request_counts": {"total": 3, "completed": completed, "failed": failed}}


@pytest.mark.parametrize(
    ("status", "output", "errors", "kinds"),
    [
        ("completed", [answer(i) for i in IDS], [], []),
        ("cancelled", [answer("b")], [error("a", "batch_cancelled"), error("c", "batch_cancelled")], []),
        ("completed", [answer("a"), answer("c")], [], ["lost", "counts"]),
        ("completed", [answer("a"), b"\0\0\xff\xff\n", b"{}\n"], [], ["changed", "changed", "lost", "lost", "counts"]),
        (
            "completed",
            [answer("a"), answer("b"), answer("b"), answer("c")],
            [],
            ["order", "doubled", "doubled", "counts"],
        ),
        ("completed", [answer("b"), answer("a"), answer("c")], [], ["order"]),
        ("completed", [answer("a"), answer("b", "text a"), answer("c")], [], ["crossed"]),
        ("completed", [answer("a"), answer("b")], [error("c", "worker_killed")], ["lost", "counts"]),
        (
            "completed",
            [answer("a"), answer("b"), answer("c"), answer("z")],
            [],
            ["crossed", "order", "doubled", "counts"],
        ),
    ],
)
def test_files(status: str, output: list[bytes], errors: list[bytes], kinds: list[str]) -> None:
    found = check_files(SENT, batch(status, len(output)), b"".join(output), b"".join(errors))

    assert sorted(finding.kind for finding in found) == sorted(kinds)


def record(kind: str, line: int, value: bytes, at: int) -> LogRecord:
    headers = {"kind": kind.encode(), "batch": b"x", "line": b"%d" % line, "total": b"3"}
    return LogRecord(0, at, at, headers, value)


def test_what_lies_behind_the_end_record_is_not_in_the_file() -> None:
    log = [
        record("line", 0, answer("a"), 1),
        record("line", 0, answer("a", "another"), 2),
        record("cancel", 0, b"", 3),
        record("line", 1, answer("b"), 4),
    ]

    assert check_against_log(batch("cancelled", 1), answer("a"), log) == []
    assert check_against_log(batch("cancelled", 2), answer("a") + answer("b"), log)
    assert check_against_log(batch("cancelled", 1), answer("a", "another"), log)


def test_repeated_answers_are_counted_without_those_that_were_injected() -> None:
    log = [record("line", n % 2, b"", n) for n in range(6)]

    figures = figures_of(log, Counter({(b"x", b"0"): 2}))

    assert (figures.num_lines, figures.num_repeated) == (2, 2)


def test_counts_that_go_down_and_files_that_change_are_seen() -> None:
    watch = Watch()
    for completed in (1, 2, 2):
        watch.see_counts(batch("in_progress", completed))
    for content in (b"a", b"a"):
        watch.see_content("file", content)
    assert watch.findings == []

    watch.see_counts(batch("in_progress", 1))
    watch.see_content("file", b"b")

    assert [finding.kind for finding in watch.findings] == ["counts", "changed"]


def test_result_file_of_a_batch_by_topic_that_is_no_lines_is_found() -> None:
    content = "\x00\x00}" + "\n" + answer("a").decode()
    client: Any = SimpleNamespace(files=SimpleNamespace(content=lambda _: SimpleNamespace(text=content)))
    part = SimpleNamespace(id="b", output_file_id="f", error_file_id=None, status="completed", errors=None)
    batch = TopicBatch("n", is_keyed=True, roll_lines=0, texts={"a": "text a"})
    assert [finding.kind for finding in check_topic_batch(batch, [part], client, set())] == ["changed"]
