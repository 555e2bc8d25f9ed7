"""Which attributes the span of a generation has, and that it has no text."""

import msgspec
import pytest

from services.inference.engine import Answer, EngineDead, EngineResult, Retry
from services.inference.generation_span import answered_in, asked_in, error_of, of_answer, of_request

SECRET = "only-for-the-model"


def test_span_has_what_was_asked_and_answered_but_no_text() -> None:
    asked = {"model": "m", "messages": [{"role": "user", "content": SECRET}], "temperature": 0.5, "top_p": 0.9, "n": 2}
    asked |= {"max_completion_tokens": 7, "seed": 3, "stop": [SECRET], "user": SECRET}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    choices = [{"finish_reason": "length", "message": {"content": SECRET}}, {"finish_reason": None}]
    answered = {"model": "m-1", "usage": usage, "choices": choices}
    begun = of_request(asked_in(msgspec.json.encode(asked)), "chat", "vllm", "m")
    ended = of_answer(answered_in(msgspec.json.encode(answered)))
    assert begun == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "m",
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.seed": 3,
        "gen_ai.request.choice.count": 2,
    }
    assert ended == {
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.response.model": "m-1",
        "gen_ai.response.finish_reasons": ["length"],
    }
    assert SECRET not in str((begun, ended))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"nothing", b'{"max_tokens": "many"}', b'{"seed": 9223372036854775808}', b"[" * 100_000]
)
def test_body_that_says_something_else_has_no_attributes(body: bytes) -> None:
    assert set(of_request(asked_in(body), "chat", "vllm", "m")) == {
        *("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"),
    }
    assert not set(of_answer(answered_in(body))) - {
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
    }


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (Answer(200, b"{}"), None),
        (Answer(400, b"{}"), "400"),
        (Retry("queue is full"), "busy"),
        (EngineDead("out of memory"), "engine_dead"),
    ],
)
def test_error_of_a_generation_is_of_few_kinds(result: EngineResult, error: str | None) -> None:
    assert error_of(result) == error
