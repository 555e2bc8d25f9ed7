"""When did which worker have a line? PURE: a header of its completion, for whoever asks why it took so long."""

import msgspec

# What an engine does not tell.
UNKNOWN = -1
_NUM_NUMBERS = 10


class LineTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Unix milliseconds: its request was written, fetched by the worker, let into the engine, and left it.

    `entered_ms` and `left_ms` are 0 for a line that never ran. `attempt` counts the request's records, `tries` how
    often the engine was asked for this one, and `redelivered` is 1 if a worker that died may have had it before.
    `queued_ms`, `prefill_ms` and `decode_ms` are what the engine says of its last try, or UNKNOWN: how long it waited
    for a place, took until the first token, and from that to the last.
    """

    worker: str
    attempt: int
    tries: int
    redelivered: int
    sent_ms: int
    fetched_ms: int
    entered_ms: int
    left_ms: int
    queued_ms: int = UNKNOWN
    prefill_ms: int = UNKNOWN
    decode_ms: int = UNKNOWN

    def header(self) -> str:
        """As text."""
        times = f"{self.sent_ms},{self.fetched_ms},{self.entered_ms},{self.left_ms}"
        inside = f"{self.queued_ms},{self.prefill_ms},{self.decode_ms}"
        return f"{self.attempt},{self.tries},{self.redelivered},{times},{inside},{self.worker}"


def parse_times(header: str) -> LineTimes | None:
    """The times that a header tells; None for one that is not of this form."""
    parts = header.split(",", _NUM_NUMBERS)
    if len(parts) != _NUM_NUMBERS + 1:
        return None
    try:
        attempt, tries, redelivered, sent, fetched, entered, left, queued, prefill, decode = map(int, parts[:-1])
    except ValueError:
        return None
    return LineTimes(
        worker=parts[-1],
        attempt=attempt,
        tries=tries,
        redelivered=redelivered,
        sent_ms=sent,
        fetched_ms=fetched,
        entered_ms=entered,
        left_ms=left,
        queued_ms=queued,
        prefill_ms=prefill,
        decode_ms=decode,
    )
