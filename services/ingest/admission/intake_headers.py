"""Which headers of an intake record mean something? PURE: the names of the contract, and CloudEvents' beside them."""

import re
from collections.abc import Iterable, Mapping

from services.ingest.request_line import shown
from shared.api_keys import TENANT_NAME
from shared.dead_letters import UNKNOWN_SCHEMA, UNREADABLE
from shared.trace_context import span_context

SCHEMA = "1"
ID_BYTES_MAX = 512
BATCH_OPEN, BATCH_CLOSE = "batch-open", "batch-close"
# The least that has to be handed on (W3C, "Trace Context" 2, 3.3.1.5), of what can be a list of members.
_TRACESTATE = re.compile(r"[ -~]{1,512}")
_KNOWN_HEADERS = frozenset(
    {
        "request-id",
        "batch-id",
        "type",
        "tenant",
        "deadline-ms",
        "class",
        "reply-topic",
        "schema",
        "traceparent",
        "tracestate",
        "ce_id",
        "ce_type",
    }
)
Found = Mapping[str, str]


class DeadLetter(ValueError):
    """Nobody can be answered: `error` is the class of a dead letter's."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error


def known_headers(headers: Iterable[tuple[str, bytes | None]]) -> Found:
    """The headers that mean something here, as text; the last one of a name counts. Raises DeadLetter."""
    found = {}
    for name, value in headers:
        lower = name.lower()
        if lower in _KNOWN_HEADERS and value:
            try:
                found[lower] = value.decode()
            except UnicodeDecodeError:
                raise DeadLetter(UNREADABLE, f"the header {lower} is not UTF-8") from None
    if found.get("schema", SCHEMA) != SCHEMA:
        raise DeadLetter(UNKNOWN_SCHEMA, f"schema {shown(found['schema'])}, this version reads {SCHEMA}")
    return found


def control_of(found: Found) -> str | None:
    """`batch-open` or `batch-close` where the record is one; of a CloudEvent's type the last part counts."""
    kind = found.get("type") or found.get("ce_type", "").rpartition(".")[2]
    return kind if kind in (BATCH_OPEN, BATCH_CLOSE) else None


def tenant_of(found: Found, tenant: str, *, believes_header: bool) -> str:
    """Whose record it is; raises DeadLetter."""
    named = found.get("tenant", tenant) if believes_header else tenant
    if not TENANT_NAME.fullmatch(named):
        raise DeadLetter(UNREADABLE, f"the tenant {shown(named)} is not a name")
    return named


def traceparent_of(found: Found) -> str | None:
    """The producer's trace, where it is one."""
    traceparent = found.get("traceparent")
    return traceparent if span_context(traceparent) else None


def tracestate_of(found: Found) -> str:
    """What goes with it; empty where there is no trace, or nothing that can be handed on."""
    tracestate = found.get("tracestate", "")
    return tracestate if traceparent_of(found) and _TRACESTATE.fullmatch(tracestate) else ""


def check_id(what: str, name: str) -> str:
    """An id that is not too long; raises DeadLetter."""
    if len(name.encode()) > ID_BYTES_MAX:
        raise DeadLetter(UNREADABLE, f"the {what} is longer than {ID_BYTES_MAX} bytes")
    return name
