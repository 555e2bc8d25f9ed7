"""Create-batch bodies, page sizes and readiness: what is refused, with OpenAI's codes."""

import json
from typing import Any

import pytest

from services.ingest.api.batch_request import RequestRules, parse_batch_request
from services.ingest.api.errors import ApiError
from services.ingest.api.file_content import disposition
from services.ingest.api.paging import page, parse_descending, parse_limit
from services.ingest.readiness import needs

RULES = RequestRules(window_s=86_400, window_s_max=604_800, free_windows=False)
GOOD = {"input_file_id": "f", "endpoint": "/v1/embeddings", "completion_window": "24h"}


def test_good_body_is_taken_and_unknown_fields_are_ignored() -> None:
    body = GOOD | {
        "metadata": {"k": "v"},
        "output_expires_after": {"anchor": "created_at", "seconds": 3600},
        "priority": 3,
    }

    request = parse_batch_request(json.dumps(body).encode(), RULES)

    assert request.metadata == {"k": "v"}
    assert request.output_expires_after_s == 3600
    assert parse_batch_request(json.dumps(GOOD | {"metadata": None}).encode(), RULES).metadata is None


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"input_file_id": None}, "missing_required_parameter", "input_file_id"),
        ({"endpoint": ...}, "missing_required_parameter", "endpoint"),
        ({"completion_window": ...}, "missing_required_parameter", "completion_window"),
        ({"input_file_id": 5}, "invalid_type", "input_file_id"),
        ({"endpoint": "/v1/nope"}, "invalid_value", "endpoint"),
        ({"completion_window": "1h"}, "invalid_value", "completion_window"),
        ({"metadata": []}, "invalid_type", "metadata"),
        ({"metadata": {"k": ["v"]}}, "invalid_type", "metadata.k"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "object_above_max_properties", "metadata"),
        ({"metadata": {"k": "v" * 513}}, "string_above_max_length", "metadata.k"),
        ({"metadata": {"k" * 65: "v"}}, "string_above_max_length", "metadata." + "k" * 65),
        ({"output_expires_after": 5}, "invalid_type", "output_expires_after"),
        ({"output_expires_after": {"anchor": "x", "seconds": 3600}}, "invalid_value", "output_expires_after.anchor"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": "1"}},
            "invalid_type",
            "output_expires_after.seconds",
        ),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
            "integer_below_min_value",
            "output_expires_after.seconds",
        ),
    ],
)
def test_bad_body_is_refused(change: dict[str, Any], code: str, param: str) -> None:
    body = {key: value for key, value in (GOOD | change).items() if value is not ...}

    with pytest.raises(ApiError) as refused:
        parse_batch_request(json.dumps(body).encode(), RULES)

    assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, param)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"null"])
def test_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError):
        parse_batch_request(body, RULES)


@pytest.mark.parametrize(
    ("raw", "code"),
    [("101", "integer_above_max_value"), ("-1", "integer_below_min_value"), ("many", "invalid_type")],
)
def test_bad_limit_is_refused(raw: str, code: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse_limit(raw, default=20, maximum=100)
    assert refused.value.code == code


def test_limits_orders_and_pages() -> None:
    assert [parse_limit(raw, default=20, maximum=100) for raw in (None, "0", "100")] == [20, 0, 100]
    assert [parse_descending(raw) for raw in (None, "asc", "desc")] == [True, False, True]
    assert page([], 5) == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    shown = page([{"id": "a"}, {"id": "b"}, {"id": "c"}], 2)
    assert (shown["first_id"], shown["last_id"], shown["has_more"]) == ("a", "b", True)
    assert page([{"id": "a"}], 0)["has_more"] is False


def test_final_conflict_is_not_to_be_retried() -> None:
    assert ApiError(409, "no").headers() == {"x-should-retry": "false"}
    assert ApiError(400, "no").headers() == {}


def test_ready_only_when_every_model_has_a_live_worker() -> None:
    healthy = {"view_caught_up": True, "dispatching": True, "admitting": True, "stopping": False}

    def missing(dependencies: dict[str, str | None], **told: Any) -> set[str]:
        return {name for name, why in needs(dependencies, **told).items() if why is not None}

    assert missing({"broker": None}, **healthy, models=["a"], alive={"a", "b"}) == set()
    assert missing({}, **healthy, models=["a", "c"], alive={"a"}) == {"workers/c"}
    assert missing({"broker": None, "store": "away"}, **healthy, models=[], alive=[]) == {"store"}
    nothing = {"view_caught_up": False, "dispatching": False, "admitting": False, "stopping": True}
    assert missing({}, **nothing, models=[], alive=[]) == {"view", "dispatcher", "admission", "ingest"}


def test_download_names_are_safe_in_a_header() -> None:
    assert disposition("batch_1_output.jsonl") == 'attachment; filename="batch_1_output.jsonl"'
    assert disposition("ä.jsonl") == "attachment; filename=\"_.jsonl\"; filename*=UTF-8''%C3%A4.jsonl"
    assert '"' not in disposition('a"b\r\n.jsonl').removeprefix('attachment; filename="').split('";')[0]
