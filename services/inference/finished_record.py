"""Where does a finished line go? The completions of its batch, or whoever asked for it."""

from services.inference.completion import completion_headers_for
from services.inference.job import Done
from shared.line_times import UNKNOWN, LineTimes
from shared.publisher import OutgoingRecord
from shared.record_headers import completion_headers
from shared.result_records import result_record
from shared.topics import Topics, completion_key, partition_of, shard_of_line


def finished_record(topics: Topics, done: Done, worker_id: str, claim: str = "") -> OutgoingRecord:
    """The record that a job ends as; its line is in the store if there is a claim to it."""
    headers, value = done.job.headers, b"" if claim else done.completion.value
    if headers.is_single:
        return result_record(topics, headers, value, done.completion.error_code, claim)
    topic, times = topics.completions, line_times(done, worker_id)
    key = completion_key(headers.batch_id, shard_of_line(headers.line))
    return OutgoingRecord(
        topic=topic.name,
        value=value,
        key=key,
        partition=partition_of(key, topic.partitions),
        headers=completion_headers(completion_headers_for(headers, done.completion, claim, times)),
    )


def line_times(done: Done, worker_id: str) -> str:
    """When this worker had the line, as a header."""
    job, inside = done.job, done.times
    return LineTimes(
        worker=worker_id,
        attempt=job.headers.attempt,
        tries=done.tries,
        redelivered=int(job.redelivered),
        sent_ms=int(job.sent_at * 1000),
        fetched_ms=int(job.fetched_at * 1000),
        entered_ms=int(done.entered_at * 1000),
        left_ms=int(done.left_at * 1000),
        queued_ms=inside.queued_ms if inside else UNKNOWN,
        prefill_ms=inside.prefill_ms if inside else UNKNOWN,
        decode_ms=inside.decode_ms if inside else UNKNOWN,
    ).header()
