"""What is told of one line, and why did it take so long? PURE: what is known of it, put in the order of time."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from shared.batch_state import BatchView
from shared.line_times import UNKNOWN, LineTimes, parse_times
from shared.record_headers import CompletionHeaders
from shared.segment import Entry, Footer

# What is told in seconds; those INSIDE are parts of `in_engine`, which has its own work around them.
INSIDE = ("engine_queue", "prefill", "decode")
PARTS = (
    "before_dispatch",
    "in_topic",
    "beside_engine",
    "in_engine",
    *INSIDE,
    "publishing",
    "collecting",
)
IN_WHOLE_SECONDS = ("accepted", "validated", "in file")
_WORDS = {
    "before_dispatch": "It waited to be put on the request topic: for the check of its file, or for room there.",
    "in_topic": "It waited in the request topic until a worker fetched it.",
    "beside_engine": "It waited in its worker for a place in the engine.",
    "in_engine": "The engine had it, and does not tell more.",
    "engine_queue": "It waited in the engine's queue.",
    "prefill": "The engine read its prompt.",
    "decode": "The engine wrote its answer.",
    "publishing": "Its answer waited for the broker to take it.",
    "collecting": "Its answer waited in the completions topic until a collector made it durable.",
}
_UNFINISHED = {
    "waiting": "It is not on the request topic yet: its file is being checked, or there is no room there.",
    "dispatched": "It is on the request topic, and no worker has finished it.",
    "not_run": "Its batch ended before it was run.",
    "unknown": "Its batch ended, and what was noted of the line is not kept any more.",
}
_REDELIVERED = "A worker that died, or was thought dead, may have had it before; it was delivered again."
# What takes less is not why a line was slow.
SLOW_S = 0.05


class Produced(NamedTuple):
    """A completion's record: where it is, when the broker took it, and its headers."""

    topic: str
    partition: int
    offset: int
    at_ms: int
    headers: CompletionHeaders


class Found(NamedTuple):
    """What log and store have of a line: its segment's footer and entry, and its completion's record."""

    number: int
    # The trace that it would be in if it is in one.
    trace_id: str | None = None
    segment: tuple[Footer, Entry] | None = None
    produced: Produced | None = None


def story(view: BatchView, custom_id: str, found: Found, trace_url: str) -> dict[str, Any]:
    """What is known of a line, as it is answered; times are Unix seconds, null where nobody knows."""
    headers = found.produced.headers if found.produced else None
    times = parse_times(headers.times) if headers else None
    trace_id = headers.traceparent.split("-")[1] if headers and headers.traceparent else found.trace_id
    seconds = _seconds(view, found, times)
    return {
        "object": "batch.line",
        "batch_id": view.created.id,
        "custom_id": custom_id,
        "line": found.number + 1,
        "status": _status(view, found),
        "error_code": headers.error_code if headers else None,
        "because": _because(view, found, times, seconds),
        "worker": times.worker if times else None,
        "attempt": times.attempt if times else None,
        "tries": times.tries if times else None,
        "redelivered": bool(times.redelivered) if times else None,
        "trace_id": trace_id,
        "trace_url": trace_url.replace("{trace_id}", trace_id) if trace_url and trace_id else None,
        "steps": _steps(view, found, times),
        "seconds": seconds,
    }


def _status(view: BatchView, found: Found) -> str:
    if found.segment is not None:
        return found.segment[1].kind
    if view.is_terminal:
        return "not_run" if view.closed and view.closed.not_run else "unknown"
    return "dispatched" if view.dispatch and view.dispatch.is_dispatched(found.number) else "waiting"


def _because(view: BatchView, found: Found, times: LineTimes | None, seconds: Mapping[str, float | None]) -> str | None:
    """What took the most of a line's time, in words, and whether a worker's death took some; None: nobody knows."""
    if found.segment is None:
        return _UNFINISHED[_status(view, found)]
    if times is None:
        return None
    outer = {part: seconds[part] or 0.0 for part in PARTS if part not in INSIDE}
    longest = max(outer, key=lambda part: outer[part])
    if outer[longest] < SLOW_S:
        return "No part of its way took long."
    if not times.redelivered or outer["in_topic"] < SLOW_S:
        return _longest(longest, outer, times, seconds)
    return _REDELIVERED if longest == "in_topic" else f"{_longest(longest, outer, times, seconds)} {_REDELIVERED}"


def _longest(longest: str, outer: Mapping[str, float], times: LineTimes, seconds: Mapping[str, float | None]) -> str:
    inside = {part: seconds[part] or 0.0 for part in INSIDE}
    if longest == "in_engine" and times.tries > 1:
        return f"The engine was asked {times.tries} times until it answered."
    if longest == "in_engine" and max(inside.values()) > outer[longest] / 2:
        longest = max(inside, key=lambda part: inside[part])
    if longest == "before_dispatch" and times.attempt > 1:
        return f"It was lost, found missing, and sent again: this was attempt {times.attempt}."
    return _WORDS[longest]


def _steps(view: BatchView, found: Found, times: LineTimes | None) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {"step": "accepted", "at": float(view.created.created_at)},
        {"step": "validated", "at": _seconds_of(view.dispatch.in_progress_at) if view.dispatch else None},
        {"step": "dispatched", "at": _from_ms(times.sent_ms) if times else None},
        {"step": "fetched", "at": _from_ms(times.fetched_ms) if times else None},
        {"step": "into the engine", "at": _from_ms(times.entered_ms) if times else None},
        *_steps_inside(times),
        {"step": "out of the engine", "at": _from_ms(times.left_ms) if times else None},
    ]
    record = found.produced
    footer, entry = found.segment or (None, None)
    produced: dict[str, Any] = {"step": "produced", "at": record.at_ms / 1000 if record else None}
    if record is not None:
        produced |= {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    collected: dict[str, Any] = {"step": "collected", "at": _from_ms(footer.written_at_ms) if footer else None}
    if footer is not None:
        collected |= {"partition": footer.partition, "first_offset": footer.first_offset}
    in_file: dict[str, Any] = {"step": "in file", "at": _seconds_of(view.closed.closed_at) if view.closed else None}
    if view.closed is not None and entry is not None:
        is_output = entry.kind == "completed"
        in_file["file_id"] = view.closed.output_file_id if is_output else view.closed.error_file_id
    return _in_order([*steps, produced, collected, in_file])


def _in_order(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is only known in whole seconds does not come before what it followed in the same one."""
    latest = 0.0
    for step in steps:
        at = step["at"]
        if step["step"] in IN_WHOLE_SECONDS and at is not None and at < latest < at + 1:
            step["at"] = latest
        latest = max(latest, step["at"] or 0.0)
    return steps


def _steps_inside(times: LineTimes | None) -> list[dict[str, Any]]:
    """When the parts of the engine's work began, counted back from its end; it tells how long they took."""
    names = ("engine queue", "prefill", "decode")
    if times is None or UNKNOWN in (times.queued_ms, times.prefill_ms, times.decode_ms):
        return [{"step": name, "at": None} for name in names]
    decode_ms = times.left_ms - times.decode_ms
    prefill_ms = decode_ms - times.prefill_ms
    # Rounded each, they may seem to have begun before the line entered.
    starts = [max(times.entered_ms, at) for at in (prefill_ms - times.queued_ms, prefill_ms, decode_ms)]
    return [{"step": name, "at": _from_ms(at)} for name, at in zip(names, starts, strict=True)]


def _seconds(view: BatchView, found: Found, times: LineTimes | None) -> dict[str, float | None]:
    """How long each part took, as far as both of its ends are known."""
    if times is None or found.produced is None:
        return dict.fromkeys(PARTS)
    produced_ms, ran = found.produced.at_ms, times.entered_ms > 0
    written_ms = found.segment[0].written_at_ms if found.segment else None
    return {
        # Batches are created in whole seconds.
        "before_dispatch": max(0.0, _between(view.created.created_at * 1000, times.sent_ms)),
        "in_topic": _between(times.sent_ms, times.fetched_ms),
        "beside_engine": _between(times.fetched_ms, times.entered_ms) if ran else None,
        "in_engine": _between(times.entered_ms, times.left_ms) if ran else None,
        "engine_queue": _known(times.queued_ms),
        "prefill": _known(times.prefill_ms),
        "decode": _known(times.decode_ms),
        "publishing": _between(times.left_ms or times.fetched_ms, produced_ms),
        "collecting": _between(produced_ms, written_ms) if written_ms else None,
    }


def _known(duration_ms: int) -> float | None:
    return None if duration_ms == UNKNOWN else duration_ms / 1000


def _between(begin_ms: int, end_ms: int) -> float:
    return round((end_ms - begin_ms) / 1000, 3)


def _from_ms(at_ms: int) -> float | None:
    return at_ms / 1000 if at_ms else None


def _seconds_of(at_s: int | None) -> float | None:
    return float(at_s) if at_s is not None else None
