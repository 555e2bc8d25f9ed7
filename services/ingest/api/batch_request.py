"""Which create-batch body is refused, and how? PURE: JSON in, a checked request out; codes as in contract 6.1."""

from dataclasses import dataclass
from typing import Any

import msgspec

from services.ingest.api.errors import ApiError, invalid_value, missing_parameter, wrong_type
from shared.openai_batch import ENDPOINTS

COMPLETION_WINDOWS = ("24h",)
METADATA_PAIRS_MAX, METADATA_KEY_MAX, METADATA_VALUE_MAX = 16, 64, 512
EXPIRES_AFTER_MIN_S, EXPIRES_AFTER_MAX_S = 3600, 2_592_000
REQUIRED = ("input_file_id", "endpoint", "completion_window")


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A create-batch body whose form is right."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None
    output_expires_after_s: int | None


def parse_json_object(body: bytes) -> dict[str, Any]:
    """The body of a JSON call; raises ApiError."""
    try:
        value = msgspec.json.decode(body or b"null")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        text = "We could not parse the JSON body of your request."
        raise ApiError(400, text) from None
    if not isinstance(value, dict):
        raise ApiError(400, "The body of your request must be a JSON object.")
    return value


def parse_batch_request(body: bytes) -> BatchRequest:
    """Check form and values; raises ApiError."""
    value = parse_json_object(body)
    for name in REQUIRED:
        if value.get(name) is None:
            raise missing_parameter(name)
        if not isinstance(value[name], str):
            raise wrong_type(name, "a string", value[name])
    if value["endpoint"] not in ENDPOINTS:
        raise invalid_value("endpoint", value["endpoint"], ENDPOINTS)
    if value["completion_window"] not in COMPLETION_WINDOWS:
        raise invalid_value("completion_window", value["completion_window"], COMPLETION_WINDOWS)
    return BatchRequest(
        input_file_id=value["input_file_id"],
        endpoint=value["endpoint"],
        completion_window=value["completion_window"],
        metadata=_metadata(value.get("metadata")),
        output_expires_after_s=_expires_after(value.get("output_expires_after")),
    )


def _metadata(value: object) -> dict[str, str] | None:
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


def _expires_after(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise wrong_type("output_expires_after", "an object", value)
    return check_expires_after("output_expires_after", value.get("anchor"), value.get("seconds"))


def check_expires_after(name: str, anchor: object, seconds: object) -> int:
    """Seconds from creation, 3600 to 2592000; the only anchor is `created_at`."""
    if anchor != "created_at":
        raise invalid_value(f"{name}.anchor", anchor, ("created_at",))
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise wrong_type(f"{name}.seconds", "an integer", seconds)
    if not EXPIRES_AFTER_MIN_S <= seconds <= EXPIRES_AFTER_MAX_S:
        side = "above" if seconds > EXPIRES_AFTER_MAX_S else "below"
        allowed = f"{EXPIRES_AFTER_MIN_S} to {EXPIRES_AFTER_MAX_S}"
        text = f"Invalid '{name}.seconds': expected {allowed}, but got {seconds} instead."
        raise ApiError(
            400, text, param=f"{name}.seconds", code=f"integer_{side}_{'max' if side == 'above' else 'min'}_value"
        )
    return seconds
