"""How many tokens does an answer report? PURE: an answer's body, or a finished line, to counts."""

import msgspec

from shared.messages import Usage


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class Reported(msgspec.Struct):
    """What `counts` reads of an answer's body."""

    usage: _Usage | None = None


class _Response(msgspec.Struct):
    body: Reported | None = None


class _Line(msgspec.Struct):
    response: _Response | None = None


_body_decoder = msgspec.json.Decoder(Reported)
_line_decoder = msgspec.json.Decoder(_Line)


def usage_of(body: bytes) -> Usage | None:
    """Tokens that an answer reports, in chat's or in responses' spelling; zeros when it reports none.

    None when it cannot be read: it is no JSON object, or reports something else than tokens.
    """
    try:
        return counts(_body_decoder.decode(body))
    except (msgspec.MsgspecError, RecursionError):
        return None


def usage_of_line(line: bytes) -> Usage:
    """Tokens of an output line: what `usage_of` said of the body in it."""
    try:
        response = _line_decoder.decode(line).response
    except (msgspec.MsgspecError, RecursionError):
        return Usage()
    return counts(response.body) if response and response.body else Usage()


def counts(body: Reported) -> Usage:
    """Tokens that it reports, in chat's or in responses' spelling; zeros when it reports none."""
    usage = body.usage
    if usage is None:
        return Usage()
    inputs = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
    outputs = usage.completion_tokens_details or usage.output_tokens_details or _Details()
    return Usage(
        input_tokens=usage.prompt_tokens or usage.input_tokens or 0,
        output_tokens=usage.completion_tokens or usage.output_tokens or 0,
        cached_tokens=inputs.cached_tokens or 0,
        reasoning_tokens=outputs.reasoning_tokens or 0,
    )
