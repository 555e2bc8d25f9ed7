"""What does a record of the intake ask for? PURE: bytes and rules in; a request, an answer or a dead letter out.

The public contract is in `shared/schemas/`. Only the value is needed, one line as in an input file; headers say more,
those of CloudEvents' binary mode among them. What is not known is ignored, except for a schema version.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from services.ingest.admission.batch_record import LINE, BatchEvent, batch_name_of, control_event, control_kind
from services.ingest.admission.intake_headers import (
    DeadLetter,
    Found,
    check_id,
    control_of,
    known_headers,
    tenant_of,
    traceparent_of,
    tracestate_of,
)
from services.ingest.api.batch_request import RequestRules
from services.ingest.request_line import (
    BadLine,
    Members,
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
from shared.dead_letters import TOO_LARGE, UNREADABLE
from shared.openai_batch import REQUEST_EXPIRED_CODE, REQUEST_EXPIRED_MESSAGE
from shared.record_headers import RequestHeaders
from shared.topics import INTERACTIVE, REQUEST_CLASSES


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
    free_windows: bool = True


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
) -> Admitted | Refused | BatchEvent:
    """Decide about one record; raises DeadLetter."""
    found = known_headers(headers)
    if value is None and control_of(found) is None:
        raise DeadLetter(UNREADABLE, "the record has no value")
    if len(value or b"") > rules.line_bytes_max:
        raise DeadLetter(TOO_LARGE, f"{len(value or b'')} bytes, {rules.line_bytes_max} are allowed")
    try:
        members = members_of(value) if value else {}
        name = batch_name_of(found, members)
        custom_id = custom_id_of(members) if "custom_id" in members else ""
    except BadLine as problem:
        return _without_a_line(found, problem, rules)
    except msgspec.DecodeError:
        return _without_a_line(found, not_json(), rules)
    if name is not None:
        return _about_a_batch(name, custom_id, value or b"", found, members, rules)
    if control_of(found) is not None:
        raise DeadLetter(UNREADABLE, f"{control_of(found)} without a batch-id")
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


def _about_a_batch(
    name: str, custom_id: str, value: bytes, found: Found, members: Members, rules: IntakeRules
) -> BatchEvent | Refused:
    tenant = tenant_of(found, rules.tenant, believes_header=rules.believes_tenant_header)
    kind = control_kind(found, members)
    if kind is None:
        if not custom_id:
            raise DeadLetter(UNREADABLE, "a line of a batch needs a custom_id")
        # Between the tokens of JSON a line ending is a space, and among lines it would be the end of one.
        return BatchEvent(LINE, tenant, name, custom_id, value.replace(b"\n", b" ").replace(b"\r", b" "))
    orders = RequestRules(rules.window_s, rules.window_s_max, rules.free_windows, rules.endpoints)
    try:
        return control_event(kind, name, tenant, found, members, orders)
    except BadLine as problem:
        return Refused(_request(found, name, rules, 0.0), name, problem.code, problem.message)


def _without_a_line(found: Found, problem: BadLine, rules: IntakeRules) -> Refused:
    """Who gave an id in a header can be answered even if the value says nothing."""
    if "request-id" not in found and "ce_id" not in found:
        raise DeadLetter(UNREADABLE, problem.message)
    return Refused(_request(found, "", rules, 0.0), "", problem.code, problem.message)


def _request(found: Found, custom_id: str, rules: IntakeRules, now_s: float) -> RequestHeaders:
    """Whose request it is and where the answer goes, by what can be relied on so far; raises DeadLetter."""
    name = check_id("request id", found.get("request-id") or found.get("ce_id") or custom_id)
    if not name:
        raise DeadLetter(UNREADABLE, "neither a custom_id nor a header names the request")
    reply_topic = found.get("reply-topic", "")
    return RequestHeaders(
        request=name,
        tenant=tenant_of(found, rules.tenant, believes_header=rules.believes_tenant_header),
        deadline_s=int(now_s) + rules.window_s,
        reply_topic=reply_topic if reply_topic in rules.reply_topics else "",
        request_class=INTERACTIVE,
        traceparent=traceparent_of(found),
        tracestate=tracestate_of(found),
    )


def _checked(found: Found, request: RequestHeaders, rules: IntakeRules, now_s: float) -> RequestHeaders:
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


def _pool(members: Members, rules: IntakeRules) -> str:
    """The model whose workers get the line; raises BadLine."""
    url = url_of(members)
    if url not in rules.endpoints:
        raise BadLine("invalid_url", "url", f"The endpoint {shown(url)} is not served.")
    model = body_of(members, url).model
    pool = rules.pool_of(model)
    if pool is None:
        raise unknown_model(model)
    return pool
