"""What does the span of a generation say? PURE: the GenAI conventions' attributes; numbers and names, never text.

From bodies that users and engines wrote: one that is not what it should be has none of them.
"""

from typing import Annotated, assert_never

import msgspec

from services.inference.engine import Answer, EngineDead, EngineResult, Retry
from shared.span_attributes import Attributes
from shared.usage import Reported, counts

# What OTLP has room for; one more and the exporter complains of every span.
_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Asked(msgspec.Struct):
    """What a request's body says of how to answer."""

    max_tokens: _Int | None = None
    max_completion_tokens: _Int | None = None
    max_output_tokens: _Int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: _Int | None = None
    n: _Int | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class Answered(Reported):
    """What an answer's body says of itself."""

    model: str | None = None
    choices: tuple[_Choice, ...] = ()


_request_decoder, _response_decoder = msgspec.json.Decoder(Asked), msgspec.json.Decoder(Answered)


def asked_in(body: bytes) -> Asked | None:
    """Of a request's body; None where it is not what it should be."""
    try:
        return _request_decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return None


def answered_in(body: bytes) -> Answered | None:
    """Of an answer's body; None where it is not what it should be."""
    try:
        return _response_decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return None


def of_request(asked: Asked | None, operation: str, provider: str, model: str) -> Attributes:
    """Attributes that a generation begins with."""
    attributes: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
    }
    if asked is None:
        return attributes
    chosen = {
        "max_tokens": asked.max_completion_tokens or asked.max_tokens or asked.max_output_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "seed": asked.seed,
        "choice.count": asked.n if asked.n != 1 else None,
    }
    return attributes | {f"gen_ai.request.{name}": value for name, value in chosen.items() if value is not None}


def of_answer(answered: Answered | None) -> Attributes:
    """Attributes that it ends with."""
    if answered is None:
        return {}
    usage = counts(answered)
    attributes: Attributes = {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
    }
    if usage.cached_tokens:
        attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
    if answered.model:
        attributes["gen_ai.response.model"] = answered.model
    if reasons := [choice.finish_reason for choice in answered.choices if choice.finish_reason]:
        attributes["gen_ai.response.finish_reasons"] = reasons
    return attributes


def error_of(result: EngineResult) -> str | None:
    """The `error.type` of the span; None where there is an answer."""
    match result:
        case Answer(status=200):
            return None
        case Answer(status=status):
            return str(status)
        case Retry():
            return "busy"
        case EngineDead():
            return "engine_dead"
        case _:
            assert_never(result)
