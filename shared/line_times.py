"""When did which worker have a line? PURE: a header of its completion, for whoever asks why it took so long."""

import msgspec


class LineTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Unix milliseconds: its request was written, taken by the worker, let into the engine, and left it.

    `entered_ms` and `left_ms` are 0 for a line that never ran.
    """

    worker: str
    attempt: int
    sent_ms: int
    taken_ms: int
    entered_ms: int
    left_ms: int

    def header(self) -> str:
        """As text."""
        times = f"{self.sent_ms},{self.taken_ms},{self.entered_ms},{self.left_ms}"
        return f"{self.attempt},{times},{self.worker}"


def parse_times(header: str) -> LineTimes | None:
    """The times that a header tells; None for one that is not of this form."""
    parts = header.split(",", 5)
    try:
        attempt, sent_ms, taken_ms, entered_ms, left_ms = map(int, parts[:5])
        worker = parts[5]
    except (ValueError, IndexError):
        return None
    return LineTimes(
        worker=worker, attempt=attempt, sent_ms=sent_ms, taken_ms=taken_ms, entered_ms=entered_ms, left_ms=left_ms
    )
