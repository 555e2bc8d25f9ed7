"""Where does each line of a batch go whose lines come one by one? PURE.

They are checked when they are dispatched, because they must agree on nothing among themselves: one that is refused is
answered at once, and the others run.
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
from shared.messages import BatchCreated, BatchDispatched
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


def with_destination(cursor: BatchDispatched, found: Destination) -> BatchDispatched:
    """The cursor that knows the models of a line too; the same one when it did before."""
    is_first = not cursor.pools
    model = found.model if is_first or cursor.model == found.model else None
    is_served = cursor.served_by.get(found.model, found.model) == found.pool
    if model == cursor.model and found.pool in cursor.pools and is_served:
        return cursor
    served_by = cursor.served_by | ({found.model: found.pool} if found.model != found.pool else {})
    pools = tuple(dict.fromkeys((*cursor.pools, found.pool)))
    return msgspec.structs.replace(cursor, model=model, pools=pools, served_by=served_by)


def refused_line(topics: Topics, created: BatchCreated, number: int, value: bytes, problem: BadLine) -> OutgoingRecord:
    """The completion of a line that does not run."""
    topic, key = topics.completions, completion_key(created.id, shard_of_line(number))
    line = unanswered_line(
        answer_id=request_id(created.id, number),
        custom_id=custom_id_of(members_of(value)),
        code=problem.code,
        message=problem.message,
    )
    headers = CompletionHeaders(
        kind="line", batch_id=created.id, line=number, total=created.record_total(0), error_code=problem.code
    )
    return OutgoingRecord(topic.name, line, partition_of(key, topic.partitions), key, completion_headers(headers))
