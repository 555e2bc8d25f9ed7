"""Echo bodies carry every key of the newest OpenAI models, and bad requests are refused."""

import base64
import json
import struct
import time
from typing import Any, get_args

import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel

from services.inference.echo_engine import EchoEngine
from services.inference.engine import Answer, EngineRequest
from services.inference.settings import EchoSettings


async def ask(url: str, body: Any, settings: EchoSettings | None = None, request_id: str = "batch_req_1") -> Answer:
    engine = EchoEngine("m", settings or EchoSettings())
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await engine.answer(EngineRequest(request_id, url, raw))
    assert isinstance(answer, Answer)
    return answer


async def body_of(url: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await ask(url, {"model": "m"} | body)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)  # type: ignore[no-any-return]


def assert_every_key(model: type[BaseModel], value: dict[str, Any]) -> None:
    """`value` has every field of the SDK's model, and so have the objects inside it."""
    assert set(model.model_fields) <= set(value), model.__name__
    for name, field in model.model_fields.items():
        inner = next((t for t in _types(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)), None)
        items = value[name] if isinstance(value[name], list) else [value[name]]
        for item in items:
            if inner is not None and isinstance(item, dict) and name in ("choices", "message", "usage", "data"):
                assert_every_key(inner, item)


def _types(annotation: Any) -> list[Any]:
    arguments = get_args(annotation)
    return [t for a in arguments for t in _types(a)] if arguments else [annotation]


async def test_chat_answers_with_the_last_user_message() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": [{"type": "text", "text": "two "}, {"type": "text", "text": "words"}]},
    ]

    body = await body_of("/v1/chat/completions", {"messages": messages, "n": 2})

    ChatCompletion.model_validate(body, strict=True)
    assert_every_key(ChatCompletion, body)
    assert [choice["message"]["content"] for choice in body["choices"]] == ["two words"] * 2
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (6, 4)


async def test_completion_answers_with_each_prompt() -> None:
    body = await body_of("/v1/completions", {"prompt": ["a b", "c"]})

    Completion.model_validate(body, strict=True)
    assert_every_key(Completion, body)
    assert [choice["text"] for choice in body["choices"]] == ["a b", "c"]


async def test_embeddings_are_unit_vectors_hashed_from_the_input() -> None:
    body = await body_of("/v1/embeddings", {"input": ["a", "b", "a"], "dimensions": 16})

    CreateEmbeddingResponse.model_validate(body, strict=True)
    assert_every_key(CreateEmbeddingResponse, body)
    one, other, again = (item["embedding"] for item in body["data"])
    assert one == again != other
    assert sum(x * x for x in one) == pytest.approx(1.0, abs=1e-4)
    packed = await body_of("/v1/embeddings", {"input": "a", "dimensions": 16, "encoding_format": "base64"})
    floats = struct.unpack("<16f", base64.b64decode(packed["data"][0]["embedding"]))
    assert floats == pytest.approx(one, abs=1e-6)


@pytest.mark.parametrize("given", ["hi there", [{"role": "user", "content": "hi there"}]])
async def test_responses_answers_with_the_input(given: Any) -> None:
    body = await body_of("/v1/responses", {"input": given})

    Response.model_validate(body, strict=True)
    assert_every_key(Response, body)
    assert body["output"][0]["content"][0]["text"] == "hi there"
    assert body["usage"]["input_tokens_details"]["cache_write_tokens"] == 0


@pytest.mark.parametrize(
    ("url", "body", "status"),
    [
        ("/v1/chat/completions", {"model": "m", "messages": [{"content": "x"}]}, 400),
        ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user"}]}, 400),
        ("/v1/chat/completions", {"model": "m", "messages": []}, 400),
        ("/v1/chat/completions", {"model": "m", "messages": ["x"]}, 400),
        ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 0}, 400),
        ("/v1/chat/completions", {"model": "other", "messages": [{"role": "user", "content": "x"}]}, 404),
        ("/v1/completions", {"model": "m"}, 400),
        ("/v1/embeddings", {"model": "m", "input": []}, 400),
        ("/v1/embeddings", {"model": "m", "input": "x", "dimensions": -1}, 400),
        ("/v1/responses", {"model": "m"}, 400),
        ("/v1/completions", {"prompt": "x"}, 400),
        ("/v1/completions", b"[]", 400),
        ("/v1/completions", b"{", 400),
        ("/v1/moderations", {"model": "m"}, 404),
    ],
)
async def test_bad_requests_are_refused_in_the_envelope(url: str, body: Any, status: int) -> None:
    answer = await ask(url, body)

    assert answer.status == status
    assert set(json.loads(answer.body)["error"]) == {"message", "type", "param", "code"}


async def test_failures_and_latency_can_be_set() -> None:
    body = {"model": "m", "prompt": "one two"}
    settings = EchoSettings(failure_rate=0.5)
    statuses = [(await ask("/v1/completions", body, settings, f"r{n}")).status for n in range(200)]
    assert 60 < statuses.count(500) < 140
    again = [(await ask("/v1/completions", body, settings, f"r{n}")).status for n in range(200)]
    assert statuses == again, "a function of the request alone"

    began = time.monotonic()
    await ask("/v1/completions", body, EchoSettings(latency_s=0.02, latency_per_token_s=0.01, jitter_s=0.001))
    assert time.monotonic() - began >= 0.04
