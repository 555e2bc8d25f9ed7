"""What is special about a batch whose lines come one by one? PURE but for `Sealing`, SHELL, which ends its growth.

Its lines are checked when they are dispatched, because they must agree on nothing among themselves: one that is refused
is answered at once, and the others run.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from services.ingest.request_line import (
    BadLine,
    body_of,
    check_required,
    custom_id_of,
    members_of,
    not_json,
    too_deep,
    unknown_model,
    url_of,
)
from shared.identifiers import request_id
from shared.messages import BatchCreated
from shared.openai_batch import unanswered_line
from shared.publisher import OutgoingRecord
from shared.record_headers import CompletionHeaders, completion_headers
from shared.topics import Topics, completion_key, partition_of, shard_of_line


@dataclass(frozen=True, slots=True)
class Destination:
    """The model that a line names, and the one whose workers get it."""

    model: str
    pool: str


def destination_of(value: bytes, endpoint: str, pool_of: Callable[[str], str | None]) -> Destination:
    """Where one line goes; raises BadLine."""
    try:
        members = members_of(value)
        check_required(members)
        custom_id_of(members)
        if url_of(members) != endpoint:
            text = "The URL provided for this request does not match the batch endpoint."
            raise BadLine("invalid_url", "url", text)
        model = body_of(members, endpoint).model
    except RecursionError:
        raise too_deep() from None
    except msgspec.DecodeError:
        raise not_json() from None
    pool = pool_of(model)
    if pool is None:
        raise unknown_model(model)
    return Destination(model, pool)


def refused_line(
    topics: Topics, created: BatchCreated, number: int, custom_id: str, problem: BadLine
) -> OutgoingRecord:
    """The completion of a line that does not run."""
    topic, key = topics.completions, completion_key(created.id, shard_of_line(number))
    value = unanswered_line(
        answer_id=request_id(created.id, number), custom_id=custom_id, code=problem.code, message=problem.message
    )
    headers = CompletionHeaders(
        kind="line", batch_id=created.id, line=number, total=created.room, error_code=problem.code
    )
    return OutgoingRecord(topic.name, value, partition_of(key, topic.partitions), key, completion_headers(headers))
