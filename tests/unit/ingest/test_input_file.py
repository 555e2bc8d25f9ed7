"""Which input lines are refused, with which code: one row per rule of the contract."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from services.ingest.input_file import InputFile, LineRules
from shared.jsonl import Line, LineReader
from shared.messages import BatchDispatched, LineProblem, encode
from tests.contract.hostile import bad_file

CHAT = "/v1/chat/completions"


def line(**changes: Any) -> dict[str, Any]:
    base = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m", "messages": []}}
    return {key: value for key, value in (base | changes).items() if value is not ...}


def rules(**changes: Any) -> LineRules:
    base: dict[str, Any] = {"endpoint": CHAT, "lines_max": 100, "line_bytes_max": 1000}
    return LineRules(**(base | changes))


def problems(
    *lines: dict[str, Any] | bytes, endpoint: str = CHAT, lines_max: int = 100, **more: Any
) -> tuple[LineProblem, ...]:
    checked = InputFile(rules(endpoint=endpoint, lines_max=lines_max, **more), themselves("m", "n"))
    raw = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in lines]
    reader = LineReader(1000)
    for found in [*reader.feed(b"\n".join(raw)), *reader.finish()]:
        checked.check(found)
    return checked.finish()


def test_good_lines_have_no_problems() -> None:
    assert problems(line(), line(custom_id="b")) == ()
    assert problems(line(url="/v1/embeddings", body={"model": "m", "input": 1}), endpoint="/v1/embeddings") == ()


@pytest.mark.parametrize(
    ("bad", "code", "param"),
    [
        (b"{not json", "invalid_json_line", None),
        (b'{"custom_id": "a\x00"}', "invalid_json_line", None),
        (b"\xff\xfe", "invalid_json_line", None),
        (
            b'{"custom_id":"x","method":"POST","url":"' + CHAT.encode() + b'","body":{"model":' + b"[" * 800,
            "invalid_json_line",
            None,
        ),
        (b"[1]", "invalid_request", None),
        (b'"text"', "invalid_request", None),
        (b'{"a": "' + b"x" * 2000 + b'"}', "line_too_large", None),
        (line(custom_id=...), "missing_required_parameter", "custom_id"),
        (line(method=...), "missing_required_parameter", "method"),
        (line(url=...), "missing_required_parameter", "url"),
        (line(body=...), "missing_required_parameter", "body"),
        (line(custom_id=7), "invalid_type", "custom_id"),
        (line(custom_id="x" * 513), "string_above_max_length", "custom_id"),
        (line(method="GET"), "invalid_value", "method"),
        (line(url=1), "invalid_type", "url"),
        (line(url="/v1/embeddings"), "invalid_url", "url"),
        (line(body=[]), "invalid_type", "body"),
        (line(body={"messages": []}), "invalid_request", "body.model"),
        (line(body={"model": "", "messages": []}), "invalid_request", "body.model"),
        (line(body={"model": 1, "messages": []}), "invalid_type", "body.model"),
        (line(body={"model": "m"}), "invalid_request", "body.messages"),
        (line(body={"model": "m", "messages": [], "stream": True}), "streaming_unsupported", "body.stream"),
        (line(body={"model": "other", "messages": []}), "model_not_found", "body.model"),
    ],
)
def test_bad_line_is_named_with_its_number(bad: dict[str, Any] | bytes, code: str, param: str | None) -> None:
    (problem,) = problems(line(custom_id="first"), bad)

    assert (problem.line, problem.code, problem.param) == (2, code, param)


def test_duplicate_and_mismatch_are_found_across_lines() -> None:
    found = problems(line(), line(), line(custom_id="c", body={"model": "n", "messages": []}))

    assert [(p.line, p.code) for p in found] == [(2, "duplicate_custom_id"), (3, "mismatched_model")]


def test_blank_line_in_the_middle_is_a_bad_line() -> None:
    assert [(p.line, p.code) for p in problems(line(), b"", line(custom_id="b"))] == [(2, "invalid_json_line")]


def test_only_the_first_hundred_problems_are_listed_in_line_order() -> None:
    found = problems(*[b"x"] * 150, lines_max=1000)

    assert [p.line for p in found] == list(range(1, 101))


def test_empty_and_oversize_files_are_refused_as_a_whole() -> None:
    assert [p.code for p in problems(b"", b"  ")] == ["empty_file"]
    assert [p.code for p in problems(line(), line(custom_id="b"), lines_max=1)] == ["too_many_requests"]


def themselves(*models: str) -> Callable[[str], str | None]:
    """Each of these models has workers of its own."""
    return {model: model for model in models}.get


def test_numbers_beyond_64_bits_and_repeated_keys_in_the_body_pass() -> None:
    raw = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[],"n":%d}}'

    assert problems(raw % 10**30) == ()


def test_adapters_lines_go_to_the_model_that_they_adapt() -> None:
    pools = {"base": "base", "sql": "base", "other": "other"}
    files = {
        ("sql",): (("base",), "sql"),
        ("base", "sql"): (("base",), None),
        ("sql", "other"): (("base", "other"), None),
    }
    for models, (expected, model) in files.items():
        checked = InputFile(rules(several_models=True), pools.get)
        for number, name in enumerate(models):
            item = line(custom_id=str(number), body={"model": name, "messages": []})
            checked.check(Line(number, json.dumps(item).encode(), 0))

        assert (checked.finish(), checked.pools, checked.model) == ((), expected, model)
        assert checked.served_by == {"sql": "base"}
        facet = BatchDispatched(model=checked.model, pools=checked.pools, served_by=checked.served_by)
        assert [facet.pool_of(name) for name in models] == [pools[name] for name in models]


def test_line_over_the_limit_says_the_limit() -> None:
    checked = InputFile(rules(lines_max=1, line_bytes_max=77), lambda model: model)
    checked.check(Line(0, None, 500))

    assert "77" in checked.finish()[0].message


def test_huge_names_are_cut_in_messages_so_that_a_hundred_of_them_fit_into_a_record() -> None:
    checked = InputFile(rules(lines_max=1000, line_bytes_max=10**7), lambda _: None)
    for number in range(200):
        raw = json.dumps(line(custom_id=str(number), body={"model": "m" * 100_000, "messages": []}))
        checked.check(Line(number, raw.encode(), 0))

    assert sum(len(problem.message) for problem in checked.finish()) < 100_000


def test_ten_thousand_damaged_files_are_judged_and_never_crash() -> None:
    for seed in range(10_000):
        checked = InputFile(rules(), themselves("echo"))
        reader = LineReader(100_000)
        for found in [*reader.feed(bad_file(seed)), *reader.finish()]:
            checked.check(found)
        encode(BatchDispatched(errors=checked.finish()))


@pytest.mark.parametrize("name", ["custom_id", "method", "url", "body"])
def test_bytes_that_are_no_utf_8_make_the_line_no_json(name: str) -> None:
    raw = json.dumps(line(**{name: "???"})).encode().replace(b"???", b"\xed\xa0\x80")

    assert [problem.code for problem in problems(raw)] == ["invalid_json_line"]


def test_lines_of_several_models_where_that_is_allowed() -> None:
    lines = [line(), line(custom_id="b", body={"model": "n", "messages": []}), line(custom_id="c")]
    checked = InputFile(rules(several_models=True), themselves("m", "n"))
    for number, item in enumerate(lines):
        checked.check(Line(number, json.dumps(item).encode(), 0))

    assert (checked.finish(), checked.model, checked.pools) == ((), None, ("m", "n"))


def test_unknown_models_go_to_the_default_where_lines_fail_alone() -> None:
    unknown = [line(body={"model": "x", "messages": []}), line(custom_id="b", body={"model": "x", "messages": []})]
    for known, pools in (([], ("d",)), ([line(custom_id="c")], ("m",))):
        checked = InputFile(rules(default_model="d"), themselves("m", "d"))
        for number, item in enumerate([*unknown, *known]):
            checked.check(Line(number, json.dumps(item).encode(), 0))
        assert checked.finish() == ()
        assert checked.pools == pools
        assert checked.model == (None if known else "x")


@pytest.mark.parametrize(
    ("value", "count"), [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2]], 2), ([], 1), ({}, 1), (None, 1)]
)
def test_embedding_inputs_are_counted(value: Any, count: int) -> None:
    item = line(url="/v1/embeddings", body={"model": "m", "input": value})
    embeddings: dict[str, Any] = {"endpoint": "/v1/embeddings"}

    assert problems(item, **embeddings, embedding_inputs_max=count) == ()
    refused = problems(item, **embeddings, embedding_inputs_max=count - 1)
    assert [problem.code for problem in refused] == ["too_many_inputs"]


def test_lines_over_what_a_tenant_may_have_waiting() -> None:
    refused = problems(line(), line(custom_id="b"), queued_lines_max=1)

    assert [problem.code for problem in refused] == ["token_limit_exceeded"]
