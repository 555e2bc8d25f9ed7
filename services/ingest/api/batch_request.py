"""Which create-batch body is refused, and how? PURE: JSON in, a checked request out; codes as in contract 6.1."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.ingest.api.errors import ApiError, invalid_value, wrong_type
from services.ingest.api.file_request import parse_expires_after
from services.ingest.api.json_body import checked_integer, optional_string, parse_json_object, required_string
from services.ingest.windows import OPENAI_WINDOW, window_s
from shared.openai_batch import ENDPOINTS

METADATA_PAIRS_MAX, METADATA_KEY_MAX, METADATA_VALUE_MAX = 16, 64, 512
REQUIRED = ("input_file_id", "endpoint", "completion_window")
PRIORITY_MIN, PRIORITY_MAX = -100, 100
IDEMPOTENCY_KEY_MAX = 255
# Endpoints that an engine may offer beyond OpenAI's, such as `/v1/score`.
_PATH = re.compile(r"/[A-Za-z0-9/_.-]{1,100}")


@dataclass(frozen=True, slots=True)
class RequestRules:
    """What the settings and the engines allow."""

    window_s: int
    window_s_max: int
    free_windows: bool
    more_endpoints: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A create-batch body whose form is right. `priority` orders a tenant's own batches, higher first."""

    input_file_id: str
    endpoint: str
    completion_window: str
    window_s: int
    metadata: dict[str, str] | None = None
    output_expires_after_s: int | None = None
    priority: int = 0
    idempotency_key: str | None = None


def parse_batch_request(body: bytes, rules: RequestRules) -> BatchRequest:
    """Check form and values; raises ApiError."""
    value = parse_json_object(body)
    file_id, endpoint, window = (required_string(value, name) for name in REQUIRED)
    check_endpoint(endpoint, rules)
    return BatchRequest(
        input_file_id=file_id,
        endpoint=endpoint,
        completion_window=window,
        window_s=parse_window(window, rules),
        metadata=parse_metadata(value.get("metadata")),
        output_expires_after_s=parse_expires_after("output_expires_after", value.get("output_expires_after")),
        priority=parse_priority(value),
        idempotency_key=check_idempotency_key(optional_string(value, "idempotency_key"), "idempotency_key"),
    )


def check_endpoint(endpoint: str, rules: RequestRules) -> None:
    """One of OpenAI's, or one that an engine offers; raises ApiError."""
    if endpoint not in ENDPOINTS and not (endpoint in rules.more_endpoints and _PATH.fullmatch(endpoint)):
        raise invalid_value("endpoint", endpoint, (*ENDPOINTS, *sorted(rules.more_endpoints - set(ENDPOINTS))))


def check_idempotency_key(key: str | None, param: str) -> str | None:
    """A key of 1 to 255 characters, or none; raises ApiError."""
    if key is not None and not 1 <= len(key) <= IDEMPOTENCY_KEY_MAX:
        text = f"Invalid '{param}': expected a string of 1 to {IDEMPOTENCY_KEY_MAX} characters, but got {len(key)}."
        raise ApiError(400, text, param=param, code="invalid_value")
    return key


def parse_window(window: str, rules: RequestRules) -> int:
    """Seconds of a completion window; raises ApiError."""
    if window == OPENAI_WINDOW:
        return rules.window_s
    seconds = window_s(window) if rules.free_windows else None
    if seconds is None:
        supported = (OPENAI_WINDOW, "a number with s, m, h or d") if rules.free_windows else (OPENAI_WINDOW,)
        raise invalid_value("completion_window", window, supported)
    if seconds > rules.window_s_max:
        text = f"Invalid value: '{window}'. A window may have at most {rules.window_s_max} seconds."
        raise ApiError(400, text, param="completion_window", code="invalid_value")
    return seconds


def parse_priority(value: Mapping[str, Any]) -> int:
    """The member `priority`, 0 by default; raises ApiError."""
    priority = value.get("priority")
    return 0 if priority is None else checked_integer("priority", priority, PRIORITY_MIN, PRIORITY_MAX)


def parse_metadata(value: object) -> dict[str, str] | None:
    """Up to 16 pairs of text, or null; raises ApiError."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise wrong_type("metadata", "an object", value)
    if len(value) > METADATA_PAIRS_MAX:
        text = (
            f"Invalid 'metadata': too many properties. Expected an object with at most {METADATA_PAIRS_MAX} "
            f"properties, but got an object with {len(value)} properties instead."
        )
        raise ApiError(400, text, param="metadata", code="object_above_max_properties")
    for key, item in value.items():
        if not isinstance(item, str):
            raise wrong_type(f"metadata.{key}", "a string", item)
        for what, text, maximum in (("key", key, METADATA_KEY_MAX), ("value", item, METADATA_VALUE_MAX)):
            if len(text) > maximum:
                message = (
                    f"Invalid 'metadata.{key}': {what} too long. Expected a string with maximum length {maximum}, "
                    f"but got a string with length {len(text)} instead."
                )
                raise ApiError(400, message, param=f"metadata.{key}", code="string_above_max_length")
    return value
