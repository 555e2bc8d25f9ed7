"""What does the echo engine answer? OpenAI response bodies with every key of the newest models. PURE."""

import base64
import hashlib
import math
import struct
from dataclasses import dataclass
from typing import Any

import msgspec

_ABSENT = """
access_programs error incomplete_details conversation image input_transformations max_output_tokens max_tool_calls
moderation previous_response_id prompt prompt_cache_diagnostics prompt_cache_key prompt_cache_options
prompt_cache_retention reasoning safety_identifier tool_usage user
"""
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


class BadRequest(ValueError):
    """The request is one that a real engine refuses with 400."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class EchoRequest:
    """A parsed request body; `suffix` makes ids that depend on the request alone."""

    body: dict[str, Any]
    model: str
    suffix: str
    now_s: int


def encode(body: object) -> bytes:
    """JSON bytes."""
    return _encoder.encode(body)


def fraction(request_id: str, purpose: str) -> float:
    """A number in [0, 1) that depends on the request and the purpose alone."""
    digest = hashlib.blake2b(f"{purpose}/{request_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2.0**64


def read_request(body: bytes, request_id: str, now_s: int) -> EchoRequest:
    """Parse a body; raises BadRequest when it is not an object with a model."""
    try:
        value = _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"The body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest("The body must be a JSON object.")
    model = value.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("you must provide a model parameter", "model")
    return EchoRequest(value, model, request_id.removeprefix("batch_req_"), now_s)


def chat_completion(request: EchoRequest) -> tuple[dict[str, object], int]:
    """The last user message, once per requested choice."""
    messages = _messages(request.body.get("messages"), "messages")
    text = _last_user_text(messages)
    num_prompt = sum(_num_words(_text_of(message.get("content"))) for message in messages)
    num_choices = _num_choices(request.body)
    choices: list[dict[str, Any]] = [
        {
            "finish_reason": "stop",
            "index": index,
            "logprobs": None,
            "message": {
                "content": text,
                "refusal": None,
                "role": "assistant",
                "annotations": [],
                "audio": None,
                "function_call": None,
                "tool_calls": None,
            },
        }
        for index in range(num_choices)
    ]
    num_output = num_choices * _num_words(text)
    body = {
        "id": f"chatcmpl-{request.suffix}",
        "choices": choices,
        "created": request.now_s,
        "model": request.model,
        "object": "chat.completion",
        "metadata": request.body.get("metadata"),
        "moderation": None,
        "service_tier": "default",
        "system_fingerprint": "fp_echo",
        "usage": _completion_usage(num_prompt, num_output),
    }
    return body, num_output


def completion(request: EchoRequest) -> tuple[dict[str, object], int]:
    """Each prompt itself."""
    prompts = _prompts(request.body.get("prompt"))
    num_choices = _num_choices(request.body)
    texts = [prompt for prompt in prompts for _ in range(num_choices)]
    choices: list[dict[str, Any]] = [
        {"finish_reason": "stop", "index": index, "logprobs": None, "text": text} for index, text in enumerate(texts)
    ]
    num_output = sum(map(_num_words, texts))
    body = {
        "id": f"cmpl-{request.suffix}",
        "choices": choices,
        "created": request.now_s,
        "model": request.model,
        "object": "text_completion",
        "system_fingerprint": "fp_echo",
        "usage": _completion_usage(sum(map(_num_words, prompts)), num_output),
    }
    return body, num_output


def embeddings(request: EchoRequest, default_dimensions: int) -> tuple[dict[str, object], int]:
    """Unit vectors hashed from each input."""
    inputs = _prompts(request.body.get("input"), "input")
    dimensions = request.body.get("dimensions") or default_dimensions
    if not isinstance(dimensions, int) or isinstance(dimensions, bool) or not 1 <= dimensions <= 65_536:
        raise BadRequest("dimensions must be an integer from 1 to 65536", "dimensions")
    as_base64 = request.body.get("encoding_format") == "base64"
    data = []
    for index, text in enumerate(inputs):
        vector = _vector(text, dimensions)
        packed = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode() if as_base64 else vector
        data.append({"embedding": packed, "index": index, "object": "embedding"})
    num_tokens = sum(map(_num_words, inputs))
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return {"data": data, "model": request.model, "object": "list", "usage": usage}, 0


def response(request: EchoRequest) -> tuple[dict[str, object], int]:
    """The last user message, as one output message."""
    given = request.body.get("input")
    if isinstance(given, str):
        text, num_input = given, _num_words(given)
    else:
        items = [item for item in _items(given) if "role" in item]
        text = _last_user_text(items)
        num_input = sum(_num_words(_text_of(item.get("content"))) for item in items)
    num_output = _num_words(text)
    message = {
        "id": f"msg_{request.suffix}",
        "content": [{"annotations": [], "text": text, "type": "output_text", "logprobs": []}],
        "role": "assistant",
        "status": "completed",
        "type": "message",
        "phase": None,
    }
    usage = {
        "input_tokens": num_input,
        "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0, "cache_write_tokens_details": None},
        "output_tokens": num_output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": num_input + num_output,
    }
    return _response_frame(request) | {"output": [message], "usage": usage}, num_output


def _response_frame(request: EchoRequest) -> dict[str, object]:
    get = request.body.get
    return dict.fromkeys(_ABSENT.split()) | {
        "id": f"resp_{request.suffix}",
        "created_at": request.now_s,
        "completed_at": request.now_s,
        "object": "response",
        "status": "completed",
        "model": request.model,
        "instructions": get("instructions"),
        "metadata": get("metadata") or {},
        "parallel_tool_calls": True,
        "temperature": get("temperature", 1.0),
        "top_p": get("top_p", 1.0),
        "top_logprobs": 0,
        "tool_choice": "auto",
        "tools": [],
        "background": False,
        "service_tier": "default",
        "text": {"format": {"type": "text"}},
        "truncation": "disabled",
    }


def _completion_usage(num_prompt: int, num_output: int) -> dict[str, object]:
    return {
        "completion_tokens": num_output,
        "prompt_tokens": num_prompt,
        "total_tokens": num_prompt + num_output,
        "completion_tokens_details": {
            "accepted_prediction_tokens": 0,
            "audio_tokens": 0,
            "reasoning_tokens": 0,
            "rejected_prediction_tokens": 0,
            "text_tokens": num_output,
        },
        "prompt_tokens_details": {
            "audio_tokens": 0,
            "cache_write_tokens": 0,
            "cached_tokens": 0,
            "image_tokens": 0,
            "text_tokens": num_prompt,
        },
    }


def _messages(value: object, param: str) -> list[dict[str, Any]]:
    messages = _items(value, param)
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise BadRequest(f"Missing required parameter: '{param}[{index}].role'.", f"{param}[{index}].role")
        if message.get("content") is None and not message.get("tool_calls"):
            raise BadRequest(f"Missing required parameter: '{param}[{index}].content'.", f"{param}[{index}].content")
    return messages


def _items(value: object, param: str = "input") -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise BadRequest(f"'{param}' must be a non-empty array.", param)
    if not all(isinstance(item, dict) for item in value):
        raise BadRequest(f"Every element of '{param}' must be an object.", param)
    return value


def _last_user_text(messages: list[dict[str, Any]]) -> str:
    for message in reversed(messages):
        if message.get("role") == "user":
            return _text_of(message.get("content"))
    return _text_of(messages[-1].get("content")) if messages else ""


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return ""


def _prompts(value: object, param: str = "prompt") -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return list(value)
        if all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            return [" ".join(map(str, value))]
        if all(isinstance(item, list) for item in value):
            return [" ".join(map(str, item)) for item in value]
    raise BadRequest(f"'{param}' must be a string, an array of strings, or token arrays.", param)


def _num_choices(body: dict[str, Any]) -> int:
    n = body.get("n", 1)
    if n is None:
        return 1
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= 128:
        raise BadRequest("'n' must be an integer from 1 to 128.", "n")
    return n


def _num_words(text: str) -> int:
    return len(text.split())


def _vector(text: str, dimensions: int) -> list[float]:
    stream = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(2 * dimensions)
    raw = [value / 32768.0 for value in struct.unpack(f"<{dimensions}h", stream)]
    norm = math.sqrt(sum(value * value for value in raw)) or 1.0
    return [round(value / norm, 6) for value in raw]
