"""What does the answer to a request without a batch look like? One record: the output line, keyed by the request's id.

A part of the public contract (`schemas/`): what is written here is read by programs that are not ours.
"""

import msgspec
from aiokafka.partitioner import DefaultPartitioner

from shared.publisher import OutgoingRecord
from shared.record_headers import Header, RequestHeaders, trace_headers
from shared.topics import Topics

RESULT_SCHEMA = b"1"
_partition_of_key = DefaultPartitioner()


def result_record(
    topics: Topics, request: RequestHeaders, line: bytes, error_code: str | None, claim: str = ""
) -> OutgoingRecord:
    """The answer on `results`, or on the topic that the request named; `line` is the finished line.

    A line that does not fit into a record lies in the object store, and the header `claim` says where: key, first byte,
    bytes, SHA-256. Keys go to the partitions that every client of Kafka expects them in.
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
    headers += trace_headers(request)
    if claim:
        headers.append(("claim", claim.encode()))
    answer = OutgoingRecord(request.reply_topic, line.rstrip(b"\n"), None, key, headers)
    return answer if request.reply_topic not in ("", topics.results.name) else on_results(topics, answer)


def on_results(topics: Topics, answer: OutgoingRecord) -> OutgoingRecord:
    """The same answer on `results`."""
    topic = topics.results
    numbers = list(range(topic.partitions))
    partition = _partition_of_key(answer.key, numbers, numbers)
    return msgspec.structs.replace(answer, topic=topic.name, partition=partition)


def is_reply(record: OutgoingRecord) -> bool:
    """Whether a record goes to a topic that is not ours: of those that are ours we choose the partition."""
    return record.partition is None
