"""By which attributes are spans found? PURE: messaging names of semantic conventions 1.44, and ours."""

from collections.abc import Sequence

from shared.record_headers import RequestHeaders

BATCH_ID, LINE, CUSTOM_ID = "headrace.batch.id", "headrace.line", "headrace.custom_id"
# Which try of a line this is, where it is not the first: lines that were lost are sent again.
ATTEMPT = "headrace.attempt"
CONVERSATION_ID = "messaging.message.conversation_id"

Attributes = dict[str, str | int | float | Sequence[str]]


def line_attributes(batch_id: str, line: int, custom_id: str | None = None) -> Attributes:
    """Attributes by which a line's spans are found; `line` is 0-based, and told 1-based as users count."""
    attributes: Attributes = {BATCH_ID: batch_id, CONVERSATION_ID: batch_id, LINE: line + 1}
    return attributes | ({CUSTOM_ID: custom_id} if custom_id is not None else {})


def request_attributes(headers: RequestHeaders, custom_id: str) -> Attributes:
    """As `line_attributes`; a request without a batch is found by the id that its caller gave it."""
    if headers.is_single:
        return {CONVERSATION_ID: headers.request, CUSTOM_ID: custom_id}
    attributes = line_attributes(headers.batch_id, headers.line, custom_id)
    return attributes | {ATTEMPT: headers.attempt} if headers.attempt > 1 else attributes


def messaging_attributes(
    operation: str, kind: str, topic: str, partition: int, offset: int | None = None
) -> Attributes:
    """Messaging attributes of a span about one record."""
    attributes: Attributes = {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": topic,
        "messaging.destination.partition.id": str(partition),
    }
    return attributes | ({"messaging.kafka.offset": offset} if offset is not None else {})


def group_attributes(operation: str, kind: str, topic: str, num_records: int) -> Attributes:
    """Messaging attributes of a span about several records."""
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": topic,
        "messaging.batch.message_count": num_records,
    }


def created_line(topic: str, partition: int, batch_id: str, line: int, custom_id: str) -> Attributes:
    """Of the record that a line becomes."""
    return messaging_attributes("create", "create", topic, partition) | line_attributes(batch_id, line, custom_id)


def processed_request(
    topic: str, partition: int, offset: int, headers: RequestHeaders, custom_id: str, group: str | None = None
) -> Attributes:
    """Of a request's record that somebody works on, as a member of this group if it is said."""
    received = messaging_attributes("process", "process", topic, partition, offset)
    member: Attributes = {} if group is None else {"messaging.consumer.group.name": group}
    return received | member | request_attributes(headers, custom_id)


def processed_line(topic: str, partition: int, offset: int, batch_id: str, line: int) -> Attributes:
    """Of a completion's record that is collected."""
    return messaging_attributes("process", "process", topic, partition, offset) | line_attributes(batch_id, line)
