"""What does a record of the intake ask for? PURE: bytes and rules in; a request, an answer or a dead letter out.

The public contract is in `shared/schemas/`. Only the value is needed, one line as in an input file; headers say more,
those of CloudEvents' binary mode among them. What is not known is ignored, except for a schema version.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from services.ingest.request_line import (
    BadLine,
    body_of,
    check_required,
    custom_id_of,
    members_of,
    not_json,
    shown,
    too_deep,
    unknown_model,
    url_of,
)
from shared.api_keys import TENANT_NAME
from shared.dead_letters import TOO_LARGE, UNKNOWN_SCHEMA, UNREADABLE
from shared.openai_batch import REQUEST_EXPIRED_CODE, REQUEST_EXPIRED_MESSAGE
from shared.record_headers import RequestHeaders
from shared.topics import INTERACTIVE, REQUEST_CLASSES

SCHEMA = "1"
REQUEST_ID_BYTES_MAX = 512
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_KNOWN_HEADERS = frozenset(
    {"request-id", "ce_id", "tenant", "deadline-ms", "class", "reply-topic", "schema", "traceparent"}
)


class DeadLetter(ValueError):
    """Nobody can be answered: `error` is the class of a dead letter's."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error


@dataclass(frozen=True, slots=True)
class IntakeRules:
    """What holds for records of one topic at the moment.

    `pool_of` = the model whose workers serve a model, None for an unknown one. Times in seconds; `window_s` is the
    deadline of who names none, `window_s_max` the latest there is.
    """

    tenant: str
    believes_tenant_header: bool
    reply_topics: frozenset[str]
    line_bytes_max: int
    window_s: int
    window_s_max: int
    endpoints: frozenset[str]
    pool_of: Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may run."""

    headers: RequestHeaders
    custom_id: str
    pool: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that is answered with an error: its caller can be told."""

    headers: RequestHeaders
    custom_id: str
    code: str
    message: str


def read_intake(
    value: bytes | None, headers: Iterable[tuple[str, bytes | None]], rules: IntakeRules, now_s: float
) -> Admitted | Refused:
    """Decide about one record; raises DeadLetter."""
    found = _known(headers)
    if found.get("schema", SCHEMA) != SCHEMA:
        raise DeadLetter(UNKNOWN_SCHEMA, f"schema {shown(found['schema'])}, this version reads {SCHEMA}")
    if value is None:
        raise DeadLetter(UNREADABLE, "the record has no value")
    if len(value) > rules.line_bytes_max:
        raise DeadLetter(TOO_LARGE, f"{len(value)} bytes, {rules.line_bytes_max} are allowed")
    try:
        members = members_of(value)
        custom_id = custom_id_of(members) if "custom_id" in members else ""
    except BadLine as problem:
        return _without_a_line(found, problem, rules)
    except msgspec.DecodeError:
        return _without_a_line(found, not_json(), rules)
    request = _request(found, custom_id, rules, now_s)
    try:
        check_required(members)
        return Admitted(_checked(found, request, rules, now_s), custom_id, _pool(members, rules))
    except BadLine as problem:
        refusal = problem
    except RecursionError:
        refusal = too_deep()
    except msgspec.DecodeError:
        refusal = not_json()
    return Refused(request, custom_id, refusal.code, refusal.message)


def _known(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """The headers that mean something here, as text; the last one of a name counts."""
    found = {}
    for name, value in headers:
        lower = name.lower()
        if lower in _KNOWN_HEADERS and value:
            try:
                found[lower] = value.decode()
            except UnicodeDecodeError:
                raise DeadLetter(UNREADABLE, f"the header {lower} is not UTF-8") from None
    return found


def _without_a_line(found: Mapping[str, str], problem: BadLine, rules: IntakeRules) -> Refused:
    """Who gave an id in a header can be answered even if the value says nothing."""
    if "request-id" not in found and "ce_id" not in found:
        raise DeadLetter(UNREADABLE, problem.message)
    return Refused(_request(found, "", rules, 0.0), "", problem.code, problem.message)


def _request(found: Mapping[str, str], custom_id: str, rules: IntakeRules, now_s: float) -> RequestHeaders:
    """Whose request it is and where the answer goes, by what can be relied on so far; raises DeadLetter."""
    name = found.get("request-id") or found.get("ce_id") or custom_id
    if len(name.encode()) > REQUEST_ID_BYTES_MAX:
        raise DeadLetter(UNREADABLE, f"the request id is longer than {REQUEST_ID_BYTES_MAX} bytes")
    if not name:
        raise DeadLetter(UNREADABLE, "neither a custom_id nor a header names the request")
    tenant = found.get("tenant", rules.tenant) if rules.believes_tenant_header else rules.tenant
    if not TENANT_NAME.fullmatch(tenant):
        raise DeadLetter(UNREADABLE, f"the tenant {shown(tenant)} is not a name")
    reply_topic = found.get("reply-topic", "")
    traceparent = found.get("traceparent", "")
    return RequestHeaders(
        request=name,
        tenant=tenant,
        deadline_s=int(now_s) + rules.window_s,
        reply_topic=reply_topic if reply_topic in rules.reply_topics else "",
        request_class=INTERACTIVE,
        traceparent=traceparent if _TRACEPARENT.fullmatch(traceparent) else None,
    )


def _checked(found: Mapping[str, str], request: RequestHeaders, rules: IntakeRules, now_s: float) -> RequestHeaders:
    """The request with what its headers ask for; raises BadLine."""
    reply_topic = found.get("reply-topic", "")
    if reply_topic and reply_topic not in rules.reply_topics:
        text = f"Answers cannot go to the topic {shown(reply_topic)}: it is not in the list of reply topics."
        raise BadLine("reply_topic_not_allowed", "reply-topic", text)
    request_class = found.get("class", INTERACTIVE)
    if request_class not in REQUEST_CLASSES:
        text = f"Invalid value: {shown(request_class)}. Supported values are: {', '.join(map(repr, REQUEST_CLASSES))}."
        raise BadLine("invalid_value", "class", text)
    deadline_s = request.deadline_s
    if (given := found.get("deadline-ms")) is not None:
        if not (given.isascii() and given.isdigit()):
            raise BadLine("invalid_value", "deadline-ms", "deadline-ms must be milliseconds of Unix time.")
        deadline_s = min(int(given) // 1000, int(now_s) + rules.window_s_max)
    if deadline_s <= now_s:
        raise BadLine(REQUEST_EXPIRED_CODE, "deadline-ms", REQUEST_EXPIRED_MESSAGE)
    return msgspec.structs.replace(request, request_class=request_class, deadline_s=deadline_s)


def _pool(members: Mapping[str, msgspec.Raw], rules: IntakeRules) -> str:
    """The model whose workers get the line; raises BadLine."""
    url = url_of(members)
    if url not in rules.endpoints:
        raise BadLine("invalid_url", "url", f"The endpoint {shown(url)} is not served.")
    model = body_of(members, url).model
    pool = rules.pool_of(model)
    if pool is None:
        raise unknown_model(model)
    return pool
