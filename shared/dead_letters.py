"""What does a dead letter carry? The original bytes and headers, and where the record was and why it was parked."""

from shared.kafka import OutgoingRecord
from shared.log_reader import Record
from shared.topics import Topics


def dead_letter(topics: Topics, record: Record, reason: str) -> OutgoingRecord:
    """The record to publish on `dlq` for one that cannot be read."""
    origin = [
        ("dlq.topic", record.topic.encode()),
        ("dlq.partition", b"%d" % record.partition),
        ("dlq.offset", b"%d" % record.offset),
        ("dlq.reason", reason.encode()),
    ]
    return OutgoingRecord(topics.dlq.name, record.value, 0, record.key, [*(record.headers or ()), *origin])
