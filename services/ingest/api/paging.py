"""How are lists cut into pages? PURE: OpenAI's `limit`, `order` and `after`, and the list envelope (contract 2.3)."""

from collections.abc import Sequence
from typing import Any

from services.ingest.api.errors import ApiError, invalid_value


def parse_limit(raw: str | None, *, default: int, maximum: int) -> int:
    """The page size, 0 to `maximum`; raises ApiError with OpenAI's codes."""
    if raw is None:
        return default
    try:
        limit = int(raw)
    except ValueError:
        text = f"Invalid type for 'limit': expected an integer, but got '{raw}' instead."
        raise ApiError(400, text, param="limit", code="invalid_type") from None
    if limit > maximum:
        text = f"Invalid 'limit': integer above maximum value. Expected a value <= {maximum}, but got {limit} instead."
        raise ApiError(400, text, param="limit", code="integer_above_max_value")
    if limit < 0:
        text = f"Invalid 'limit': integer below minimum value. Expected a value >= 0, but got {limit} instead."
        raise ApiError(400, text, param="limit", code="integer_below_min_value")
    return limit


def parse_descending(raw: str | None) -> bool:
    """Whether the newest comes first."""
    if raw not in (None, "asc", "desc"):
        raise invalid_value("order", raw, ("asc", "desc"))
    return raw != "asc"


def page(items: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """The list envelope for up to `limit` of the items; one more than that means that there is a next page."""
    shown = list(items[:limit])
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": bool(shown) and len(items) > limit,
    }
