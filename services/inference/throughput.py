"""How many lines a second does the engine do while it has work? PURE."""

# Shorter spans say nothing.
SPAN_S = 1.0
NEWEST_SHARE = 0.5


class Throughput:
    """A running mean over the spans in which there was always something to do."""

    def __init__(self) -> None:
        self.lines_per_second: float | None = None
        self._since_s: float | None = None
        self._num_lines = 0

    def note(self, num_lines: int, now_s: float, *, is_idle: bool) -> None:
        """So many lines ended; `is_idle` = nothing is left, so the time until more comes does not count."""
        if self._since_s is None:  # when these were begun is not known
            self._since_s = None if is_idle else now_s
            return
        self._num_lines += num_lines
        span_s = now_s - self._since_s
        if span_s >= SPAN_S:
            newest, mean = self._num_lines / span_s, self.lines_per_second
            self.lines_per_second = newest if mean is None else NEWEST_SHARE * newest + (1 - NEWEST_SHARE) * mean
        if is_idle or span_s >= SPAN_S:
            self._since_s, self._num_lines = None if is_idle else now_s, 0
