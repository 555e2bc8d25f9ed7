"""What does a dead letter carry? The original bytes and headers, where the record was, and why it was parked."""

from collections.abc import Iterable

from shared.log_reader import Record
from shared.publisher import OutgoingRecord
from shared.record_headers import Header
from shared.topics import RECORD_BYTES_MAX, Topics

# Classes of errors, in the header `dlq.error`: the record does not fit the contract; it fits one that this version
# does not know; it is larger than a record may be; it ended the process of the worker that ran it alone.
UNREADABLE, UNKNOWN_SCHEMA, TOO_LARGE, WORKER_KILLED = "unreadable", "unknown_schema", "too_large", "worker_killed"
# Room for the original headers and ours; what is longer is cut, and says so.
VALUE_BYTES_MAX = RECORD_BYTES_MAX - 256 * 1024
HEADERS_BYTES_MAX = 128 * 1024
REASON_BYTES_MAX = 1024
PREFIX = "dlq."


def dead_letter(topics: Topics, record: Record, error: str, reason: str) -> OutgoingRecord:
    """The record to publish on `dlq` for one that cannot be worked on."""
    origin = [
        ("dlq.topic", record.topic.encode()),
        ("dlq.partition", b"%d" % record.partition),
        ("dlq.offset", b"%d" % record.offset),
        ("dlq.error", error.encode()),
        ("dlq.reason", reason.encode(errors="replace")[:REASON_BYTES_MAX]),
    ]
    value, key = record.value, record.key
    if value is None:  # a record needs a key or a value, and this one may have neither
        value = b""
        origin.append(("dlq.tombstone", b"1"))
    if len(value) > VALUE_BYTES_MAX:
        value = value[:VALUE_BYTES_MAX]
        origin.append(("dlq.truncated", b"%d" % VALUE_BYTES_MAX))
    headers = own_headers(record.headers or ())
    if sum(len(name.encode()) + len(content or b"") for name, content in headers) + len(key or b"") > HEADERS_BYTES_MAX:
        headers, key = [], None
        origin.append(("dlq.headers_dropped", b"1"))
    return OutgoingRecord(topics.dlq.name, value, 0, key, [*headers, *origin])


def own_headers(headers: Iterable[Header]) -> list[Header]:
    """The headers without what a dead letter adds: of a record that was sent again, and failed again."""
    return [(name, value) for name, value in headers if not name.startswith(PREFIX)]
