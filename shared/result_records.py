"""What does the answer to a request without a batch look like? One record: the output line, keyed by the request's id.

A part of the public contract (`schemas/`): what is written here is read by programs that are not ours.
"""

from aiokafka.partitioner import DefaultPartitioner

from shared.publisher import OutgoingRecord
from shared.record_headers import Header, RequestHeaders
from shared.topics import Topics

RESULT_SCHEMA = b"1"
_partition_of_key = DefaultPartitioner()


def result_record(topics: Topics, request: RequestHeaders, line: bytes, error_code: str | None) -> OutgoingRecord:
    """The answer on `results`, or on the topic that the request named; `line` is the finished line.

    Keys go to the partitions that every client of Kafka expects them in.
    """
    key = request.request.encode()
    headers: list[Header] = [
        ("request-id", key),
        ("tenant", request.tenant.encode()),
        ("outcome", b"failed" if error_code else b"completed"),
        ("schema", RESULT_SCHEMA),
        ("content-type", b"application/json"),
    ]
    if error_code:
        headers.append(("error-code", error_code.encode()))
    if request.traceparent:
        headers.append(("traceparent", request.traceparent.encode()))
    topic, partition = request.reply_topic, None
    if not topic or topic == topics.results.name:
        topic, numbers = topics.results.name, list(range(topics.results.partitions))
        partition = _partition_of_key(key, numbers, numbers)
    return OutgoingRecord(topic, line.rstrip(b"\n"), partition, key, headers)
