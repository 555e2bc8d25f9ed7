"""What does a dead letter carry? The original bytes and headers, and where the record was and why it was parked."""

from shared.log_reader import Record
from shared.publisher import OutgoingRecord
from shared.topics import RECORD_BYTES_MAX, Topics

# Room for the original headers and ours; what is longer is cut, and says so.
VALUE_BYTES_MAX = RECORD_BYTES_MAX - 256 * 1024
REASON_BYTES_MAX = 1024


def dead_letter(topics: Topics, record: Record, reason: str) -> OutgoingRecord:
    """The record to publish on `dlq` for one that cannot be read."""
    origin = [
        ("dlq.topic", record.topic.encode()),
        ("dlq.partition", b"%d" % record.partition),
        ("dlq.offset", b"%d" % record.offset),
        ("dlq.reason", reason.encode()[:REASON_BYTES_MAX]),
    ]
    value = record.value
    if value is None:  # a record needs a key or a value, and this one may have neither
        value = b""
        origin.append(("dlq.tombstone", b"1"))
    if len(value) > VALUE_BYTES_MAX:
        value = value[:VALUE_BYTES_MAX]
        origin.append(("dlq.truncated", b"%d" % VALUE_BYTES_MAX))
    return OutgoingRecord(topics.dlq.name, value, 0, record.key, [*(record.headers or ()), *origin])
