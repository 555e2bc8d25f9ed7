"""What do the headers of requests and completions say? PURE.

Their values are the user's own bytes, so all that Headrace adds travels in headers.
"""

from collections.abc import Iterable

import msgspec

from shared.identifiers import request_id, single_request_id
from shared.messages import LINES_MAX, UnreadableRecord, Usage
from shared.topics import BATCH, num_shards, shard_of_line

Header = tuple[str, bytes]


class RequestHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """Headers of a request record: line `line` (0-based) of a batch, or a request without a batch.

    The latter has its caller's `request` id, the topic that it is answered on (empty = `results`) and no batch.
    `deadline_s` is in Unix seconds.
    """

    batch_id: str = ""
    line: int = 0
    total: int = 0
    deadline_s: int
    attempt: int = 1
    tenant: str = "default"
    request: str = ""
    reply_topic: str = ""
    request_class: str = BATCH
    traceparent: str | None = None
    # What other tracing systems said beside it, handed on as it came.
    tracestate: str = ""
    # Where the line is, when the record has no value (`claim_check`).
    claim: str = ""

    @property
    def is_single(self) -> bool:
        """Whether it belongs to no batch."""
        return not self.batch_id

    @property
    def answer_id(self) -> str:
        """The id that its output line has, the same at every attempt."""
        return single_request_id(self.tenant, self.request) if self.is_single else request_id(self.batch_id, self.line)

    def with_traceparent(self, traceparent: str | None) -> "RequestHeaders":
        """The same, as a part of another span."""
        return msgspec.structs.replace(self, traceparent=traceparent)


class CompletionHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """Headers of a record on `completions`.

    `kind` is `line` (the value is a finished output or error line), or `cancel` or `deadline` (no value:
    what lies before it in the partition is in the files, what lies after is not; `shard` says which shard ends), or
    `sealed`: the batch, which could have had `total` lines, has `sealed_total` in the end.
    """

    kind: str
    batch_id: str
    line: int = 0
    shard: int = 0
    total: int
    sealed_total: int = 0
    succeeded: bool = False
    usage: Usage = Usage()
    # Of a line that failed: the error's code, or what stands for it.
    error_code: str | None = None
    traceparent: str | None = None
    claim: str = ""
    # When which worker had the line (`line_times`), for people.
    times: str = ""

    @property
    def shard_id(self) -> tuple[str, int]:
        """The batch shard that the record is about."""
        return self.batch_id, shard_of_line(self.line) if self.kind == "line" else self.shard


def request_headers(h: RequestHeaders) -> list[Header]:
    """Headers of a request record, in a fixed order."""
    if h.is_single:
        headers = [("request", h.request.encode()), ("class", h.request_class.encode())]
        if h.reply_topic:
            headers.append(("reply", h.reply_topic.encode()))
    else:
        headers = [("batch", h.batch_id.encode()), ("line", b"%d" % h.line), ("total", b"%d" % h.total)]
    headers.append(("attempt", b"%d" % h.attempt))
    headers.append(("deadline", b"%d" % h.deadline_s))
    headers.append(("tenant", h.tenant.encode()))
    headers += trace_headers(h)
    if h.claim:
        headers.append(("claim", h.claim.encode()))
    return headers


def trace_headers(h: RequestHeaders) -> list[Header]:
    """The trace that a record about this request is a part of (W3C, "Trace Context" 2)."""
    if not h.traceparent:
        return []
    headers = [("traceparent", h.traceparent.encode())]
    return [*headers, ("tracestate", h.tracestate.encode())] if h.tracestate else headers


def read_request_headers(headers: Iterable[Header]) -> RequestHeaders:
    """Parse the headers of a request record; raises UnreadableRecord."""
    found = dict(headers or ())
    try:
        if "request" in found:
            return _single_headers(found)
        return RequestHeaders(
            batch_id=found["batch"].decode(),
            line=int(found["line"]),
            total=int(found["total"]),
            attempt=int(found.get("attempt", b"1")),
            deadline_s=int(found["deadline"]),
            tenant=found.get("tenant", b"default").decode(),
            traceparent=_text(found.get("traceparent")),
            claim=found.get("claim", b"").decode(),
        )
    except (KeyError, ValueError, AttributeError) as error:
        raise UnreadableRecord(f"request headers: {error!r}") from None


def _single_headers(found: dict[str, bytes]) -> RequestHeaders:
    return RequestHeaders(
        request=found["request"].decode(),
        deadline_s=int(found["deadline"]),
        attempt=int(found.get("attempt", b"1")),
        tenant=found["tenant"].decode(),
        reply_topic=found.get("reply", b"").decode(),
        request_class=found["class"].decode(),
        traceparent=_text(found.get("traceparent")),
        tracestate=_text(found.get("tracestate")) or "",
        claim=found.get("claim", b"").decode(),
    )


def admitted_headers(h: RequestHeaders, pool: str) -> list[Header]:
    """Headers of a record on `admitted`: those of its request, and the model whose workers get it."""
    return [("pool", pool.encode()), *request_headers(h)]


def read_admitted_headers(headers: Iterable[Header]) -> tuple[RequestHeaders, str]:
    """Parse the headers of a record on `admitted`; raises UnreadableRecord."""
    found = dict(headers or ())
    try:
        return _single_headers(found), found["pool"].decode()
    except (KeyError, ValueError, AttributeError) as error:
        raise UnreadableRecord(f"admitted headers: {error!r}") from None


def completion_headers(h: CompletionHeaders) -> list[Header]:
    """Headers of a completion, cancel or deadline record."""
    headers = [("kind", h.kind.encode()), ("batch", h.batch_id.encode()), ("total", b"%d" % h.total)]
    if h.kind != "line":
        headers.append(("shard", b"%d" % h.shard))
        if h.kind == "sealed":
            headers.append(("sealed", b"%d" % h.sealed_total))
    else:
        u = h.usage
        headers.append(("line", b"%d" % h.line))
        headers.append(("outcome", b"completed" if h.succeeded else b"failed"))
        tokens = (u.input_tokens, u.output_tokens, u.cached_tokens, u.reasoning_tokens)
        headers.append(("usage", b"%d,%d,%d,%d" % tokens))
        if h.error_code:
            headers.append(("error_code", h.error_code.encode()))
        if h.times:
            headers.append(("times", h.times.encode()))
    if h.traceparent:
        headers.append(("traceparent", h.traceparent.encode()))
    if h.claim:
        headers.append(("claim", h.claim.encode()))
    return headers


def read_completion_headers(headers: Iterable[Header]) -> CompletionHeaders:
    """Parse the headers of a record on `completions`; raises UnreadableRecord."""
    found = dict(headers or ())
    try:
        kind = found["kind"].decode()
        if kind not in ("line", "cancel", "deadline", "sealed"):
            raise ValueError(f"kind {kind!r}")
        batch, total = found["batch"].decode(), int(found["total"])
        if not 0 <= total <= LINES_MAX:
            raise ValueError(f"total {total}")
        traceparent = _text(found.get("traceparent"))
        if kind != "line":
            shard = int(found.get("shard", b"0"))
            if not 0 <= shard < num_shards(total):
                raise ValueError(f"shard {shard} of {total} lines")
            sealed = int(found["sealed"]) if kind == "sealed" else 0
            if not 0 <= sealed <= total:
                raise ValueError(f"sealed with {sealed} of {total} lines")
            return CompletionHeaders(
                kind=kind, batch_id=batch, shard=shard, total=total, sealed_total=sealed, traceparent=traceparent
            )
        line = int(found["line"])
        if not 0 <= line < total:
            raise ValueError(f"line {line} of {total}")
        return CompletionHeaders(
            kind=kind,
            batch_id=batch,
            line=line,
            total=total,
            succeeded=found["outcome"] == b"completed",
            usage=Usage(*(int(n) for n in found["usage"].split(b",", 3))),
            error_code=_text(found.get("error_code")),
            traceparent=traceparent,
            claim=found.get("claim", b"").decode(),
            times=found.get("times", b"").decode(),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UnreadableRecord(f"completion headers: {error!r}") from None


def _text(value: bytes | None) -> str | None:
    return value.decode("ascii", "replace") if value else None
