"""What does the log say of a part of a batch by topic? PURE: made from what was asked for, and read back."""

from contextlib import suppress

import msgspec

from services.ingest.admission.batch_stream import BatchStream, Options
from services.ingest.request_line import BadLine, members_of, url_of
from shared import identifiers
from shared.batch_state import BatchView
from shared.messages import BatchCreated, Growth
from shared.openai_batch import CHAT_ENDPOINT


def wanted_part(
    stream: BatchStream, earlier: BatchCreated | None, *, tenant: str, name: str, now_s: int, window_s: int
) -> BatchCreated:
    """The part that begins now, behind the `earlier` one; `window_s` = until its deadline if nobody asked for one."""
    options = stream.options or Options()
    if earlier is not None:
        batch_id = identifiers.another_part(earlier.id, tenant, name, stream.part)
    else:
        first_seen_ns = int(stream.first_seen_s * 1000) * 10**6
        batch_id = identifiers.part_of_topic_batch(first_seen_ns, tenant, name, stream.part)
    return BatchCreated(
        id=batch_id,
        endpoint=options.endpoint or (earlier.endpoint if earlier else _first_url(stream)),
        input_file_id=identifiers.input_file_id(batch_id),
        completion_window=options.completion_window,
        created_at=now_s,
        expires_at=now_s + (options.window_s or window_s),
        metadata=options.metadata,
        tenant=tenant,
        output_expires_after_s=options.output_expires_after_s,
        priority=options.priority,
        traceparent=options.traceparent,
        growth=Growth(
            name=name,
            room=stream.room,
            part=stream.part,
            lines_before=stream.num_before,
            roll_lines=options.roll_lines,
            roll_s=options.roll_s,
        ),
    )


def known_stream(view: BatchView) -> BatchStream:
    """The stream of a part as the log tells it; what it has in the store is to be loaded."""
    created, growth = view.created, view.created.growth
    assert growth is not None, "a batch by topic"
    return BatchStream(
        first_seen_s=float(created.created_at),
        room=growth.room,
        must_load=True,
        options=_options_of(created, growth),
        is_created=True,
        created_s=float(created.created_at),
        part=growth.part,
        num_before=growth.lines_before,
        closed_s=float(view.close.closed_at) if view.close else None,
        declared=view.close.declared if view.close else None,
    )


def was_rolled(view: BatchView, now_s: float) -> bool:
    """Whether a sealed part ended for the next one to begin, and not for good."""
    created, growth = view.created, view.created.growth
    if growth is None or view.close is not None:
        return False
    is_refused = view.dispatch is not None and view.dispatch.failed_at is not None
    return view.sealed is not None or not (
        is_refused or view.cancel is not None or (now_s >= created.expires_at and not growth.rolls)
    )


def _options_of(created: BatchCreated, growth: Growth) -> Options:
    """What was asked for, for the next parts."""
    return Options(
        endpoint=created.endpoint,
        completion_window=created.completion_window,
        window_s=created.expires_at - created.created_at,
        metadata=created.metadata,
        output_expires_after_s=created.output_expires_after_s,
        priority=created.priority,
        roll_lines=growth.roll_lines,
        roll_s=growth.roll_s,
        traceparent=created.traceparent,
    )


def _first_url(stream: BatchStream) -> str:
    """The endpoint that the first line names, if it does."""
    for line in stream.waiting:
        with suppress(BadLine, KeyError, msgspec.DecodeError):
            return url_of(members_of(line.value))
    return CHAT_ENDPOINT
