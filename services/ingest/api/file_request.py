"""Which file is refused for what was said about it? PURE: purpose, name and life; texts as in contract 6.1."""

from services.ingest.api.errors import ApiError, invalid_value, wrong_type
from services.ingest.api.json_body import checked_integer

PURPOSES = ("fine-tune", "assistants", "batch", "user_data", "vision", "evals")
FILENAME_MAX = 255
EXPIRES_AFTER_MIN_S, EXPIRES_AFTER_MAX_S = 3600, 2_592_000


def check_purpose(purpose: str) -> None:
    """Refuse a purpose that the service does not know; raises ApiError."""
    if purpose not in PURPOSES:
        raise ApiError(400, f"'{purpose[:FILENAME_MAX]}' is not one of {list(PURPOSES)} - 'purpose'")


def check_filename(filename: str, purpose: str, param: str) -> str:
    """The base name of a file; raises ApiError. A batch file needs no suffix, but may have no other (contract 0.2)."""
    if len(filename) > FILENAME_MAX:
        raise ApiError(400, f"The file name is longer than {FILENAME_MAX} characters.", param=param)
    base = filename.replace("\\", "/").rsplit("/", 1)[-1] or "upload"
    if purpose == "batch" and "." in base and not base.endswith(".jsonl"):
        raise ApiError(400, "Invalid file format for Batch API. Must be .jsonl")
    return base


def parse_expires_after(name: str, value: object) -> int | None:
    """The JSON form, `{anchor, seconds}` or null; raises ApiError."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise wrong_type(name, "an object", value)
    return check_expires_after(name, value.get("anchor"), value.get("seconds"))


def check_expires_after(name: str, anchor: object, seconds: object) -> int:
    """Seconds from creation, 3600 to 2592000; the only anchor is `created_at`."""
    if anchor != "created_at":
        raise invalid_value(f"{name}.anchor", anchor, ("created_at",))
    return checked_integer(f"{name}.seconds", seconds, EXPIRES_AFTER_MIN_S, EXPIRES_AFTER_MAX_S)
