"""What a remote engine's answer means for the line."""

import json

import httpx2
import pytest

from services.inference.engine import Answer, EngineRequest, Retry
from services.inference.openai_engine import OpenAIEngine, classify
from services.inference.settings import WorkerSettings
from shared.errors import SetupError


@pytest.mark.parametrize("status", [200, 400, 401, 404, 422])
def test_answers_are_taken(status: int) -> None:
    assert classify(status, b"{}") == Answer(status, b"{}")


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_overload_is_tried_again_and_settled_for_at_last(status: int) -> None:
    result = classify(status, b"{}")

    assert isinstance(result, Retry)
    assert result.last == Answer(status, b"{}")


def test_page_of_a_proxy_becomes_an_error_object() -> None:
    result = classify(404, b"<html>not here</html>")

    assert isinstance(result, Answer)
    assert "not here" in json.loads(result.body)["error"]["message"]


def engine(base: str = "http://engine:1/v1") -> OpenAIEngine:
    return OpenAIEngine(WorkerSettings(engine="openai", model="m", openai_base_url=base))


def answering(target: OpenAIEngine, handler: httpx2.MockTransport) -> OpenAIEngine:
    target._client = httpx2.AsyncClient(transport=handler)
    return target


async def test_request_goes_to_the_path_with_its_body_and_trace() -> None:
    seen: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, content=b'{"ok": true}')

    subject = answering(engine(), httpx2.MockTransport(handle))
    request = EngineRequest("r", "/v1/embeddings", b'{"n": 1.0}', 0, f"00-{'1' * 32}-{'2' * 16}-01", "a=1")

    assert await subject.answer(request) == Answer(200, b'{"ok": true}')
    assert str(seen[0].url) == "http://engine:1/v1/embeddings"
    assert seen[0].content == b'{"n": 1.0}'
    assert (seen[0].headers["traceparent"], seen[0].headers["tracestate"]) == (request.traceparent, "a=1")
    await subject.close(1)


async def test_nobody_there_is_worth_another_try_but_not_at_start() -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    subject = answering(engine(), httpx2.MockTransport(refuse))

    result = await subject.answer(EngineRequest("r", "/v1/embeddings", b"{}"))

    assert isinstance(result, Retry)
    assert result.last is None
    with pytest.raises(SetupError, match="no engine answers"):
        await subject.start()
    assert subject.failure() is None
    await subject.cancel(EngineRequest("r", "/", b""))
    await subject.close(1)


def test_base_url_must_be_http() -> None:
    with pytest.raises(SetupError, match="expected http"):
        engine("localhost:1234")
