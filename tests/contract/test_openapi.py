"""`/openapi.json` describes what is served, and what is served is as described."""

import json
import re
from typing import Any

import httpx2
import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.ingest.api.openapi import PATHS, document
from tests.e2e.stack import Stack

CHECKS = (not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance)
EXAMPLES = 25
# A call of it does not return.
ENDLESS = "/workers/events"


def test_document_and_routes_are_the_same(open_stack: Stack, http: httpx2.Client) -> None:
    root = open_stack.url.removesuffix("/v1")
    served = http.get(f"{root}/openapi.json")
    assert served.status_code == 200
    assert served.json() == document(served.json()["info"]["version"])
    assert http.get(f"{root}/docs").status_code == 200
    for path, operations in PATHS.items():
        concrete = re.sub(r"\{[a-z_]+\}", "x", path)
        allowed = {method for method in ("get", "post", "put", "delete") if _is_served(http, method, concrete)}
        assert allowed == set(operations), path


def _is_served(http: httpx2.Client, method: str, path: str) -> bool:
    with http.stream(method, path, content=b"x", headers={"content-type": "text/plain"}) as answer:
        if answer.status_code != 404:
            return answer.status_code != 405
        return not json.loads(answer.read())["error"]["message"].startswith("Invalid URL")


@pytest.fixture(scope="module")
def schema(open_stack: Stack) -> Any:
    return schemathesis.openapi.from_url(open_stack.url.removesuffix("/v1") + "/openapi.json")


def test_stream_without_an_end_is_as_described(http: httpx2.Client) -> None:
    with http.stream("GET", ENDLESS) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        first = next(line for line in answer.iter_lines() if line.startswith("data: "))
    assert json.loads(first.removeprefix("data: "))["object"] == "list"


@pytest.mark.parametrize(
    ("path", "method"), [(path, method) for path in PATHS for method in PATHS[path] if path != ENDLESS]
)
def test_whatever_is_sent_the_answer_is_as_described(schema: Any, open_stack: Stack, path: str, method: str) -> None:
    operation = schema[path][method.upper()]

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy())
    def call(case: Any) -> None:
        case.call_and_validate(base_url=open_stack.url, checks=CHECKS, timeout=30)

    call()
