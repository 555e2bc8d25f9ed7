"""What does a record of the intake say about a batch? PURE: its members and headers in, one event out.

A record with a batch id, in the header `batch-id` or the member `batch_id`, is one of its lines, unless its type says
that it opens or closes the batch. What a line asks for is judged when it is dispatched: only its custom_id is needed
here, which says whether the line came before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from services.ingest.admission.batch_stream import Options
from services.ingest.admission.intake_headers import (
    BATCH_CLOSE,
    BATCH_OPEN,
    DeadLetter,
    Found,
    check_id,
    control_of,
    traceparent_of,
)
from services.ingest.api.batch_request import (
    RequestRules,
    check_endpoint,
    parse_metadata,
    parse_priority,
    parse_window,
)
from services.ingest.api.errors import ApiError
from services.ingest.api.file_request import parse_expires_after
from services.ingest.api.json_body import checked_integer
from services.ingest.request_line import BadLine, Members
from services.ingest.windows import OPENAI_WINDOW
from shared.dead_letters import UNREADABLE
from shared.messages import LINES_MAX, UnreadableRecord

LINE = "line"
Header = tuple[str, bytes]
ROLL_SECONDS_MAX = 30 * 86_400


@dataclass(frozen=True, slots=True)
class BatchEvent:
    """A record about the batch `name`.

    `kind` is `line`, `batch-open` or `batch-close`; `value` the line, the options as JSON, or the count, if one was
    told.
    """

    kind: str
    tenant: str
    name: str
    custom_id: str
    value: bytes

    def headers(self) -> list[Header]:
        """Headers of the record on `batch-events`."""
        found = [("event", self.kind), ("tenant", self.tenant), ("name", self.name), ("custom_id", self.custom_id)]
        return [(name, text.encode()) for name, text in found]


def read_event(headers: Iterable[Header], value: bytes | None) -> BatchEvent:
    """The event that a record on `batch-events` is; raises UnreadableRecord."""
    found = dict(headers or ())
    try:
        kind, tenant, name, custom_id = (found[key].decode() for key in ("event", "tenant", "name", "custom_id"))
    except (KeyError, ValueError, AttributeError) as error:
        raise UnreadableRecord(f"headers of a batch's event: {error!r}") from None
    return BatchEvent(kind, tenant, name, custom_id, value or b"")


def batch_name_of(found: Found, members: Members) -> str | None:
    """The batch that a record belongs to, by its producer's name for it; raises DeadLetter."""
    name = found.get("batch-id")
    if name is None and "batch_id" in members:
        member = msgspec.json.decode(members["batch_id"])
        if not isinstance(member, str):
            raise DeadLetter(UNREADABLE, "batch_id is not a string")
        name = member
    return check_id("batch id", name) if name else None


def control_kind(found: Found, members: Members) -> str | None:
    """What a record does to its batch, by its header or its member `type`; None for a line."""
    kind = control_of(found)
    if kind is None and "type" in members and "body" not in members:
        member = msgspec.json.decode(members["type"])
        kind = member if member in (BATCH_OPEN, BATCH_CLOSE) else None
    return kind


def control_event(kind: str, name: str, tenant: str, found: Found, members: Members, rules: RequestRules) -> BatchEvent:
    """`batch-open` or `batch-close`; raises BadLine."""
    told = {key: msgspec.json.decode(raw) for key, raw in members.items() if key not in ("batch_id", "type")}
    try:
        if kind == BATCH_OPEN:
            value = msgspec.json.encode(_options(told, traceparent_of(found), rules))
        else:
            count = told.get("count")
            value = b"" if count is None else b"%d" % checked_integer("count", count, 0, LINES_MAX)
    except ApiError as refusal:
        raise BadLine(refusal.code or "invalid_value", refusal.param, refusal.message) from None
    return BatchEvent(kind, tenant, name, "", value)


def _options(told: Mapping[str, Any], traceparent: str | None, rules: RequestRules) -> Options:
    endpoint, window = told.get("endpoint") or "", told.get("completion_window") or OPENAI_WINDOW
    if endpoint:
        check_endpoint(str(endpoint), rules)
    return Options(
        endpoint=str(endpoint),
        completion_window=str(window),
        window_s=parse_window(str(window), rules),
        metadata=parse_metadata(told.get("metadata")),
        output_expires_after_s=parse_expires_after("output_expires_after", told.get("output_expires_after")),
        priority=parse_priority(told),
        roll_lines=checked_integer("roll_lines", told.get("roll_lines") or 0, 0, LINES_MAX),
        roll_s=checked_integer("roll_seconds", told.get("roll_seconds") or 0, 0, ROLL_SECONDS_MAX),
        traceparent=traceparent,
    )
