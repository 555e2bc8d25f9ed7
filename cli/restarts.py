"""When is a dead child started again, and when is it given up? PURE."""

from dataclasses import dataclass

BACKOFF_BASE_S, BACKOFF_MAX_S = 0.5, 10.0
# A child that worked this long did not die of its own start.
GOOD_LIFE_S = 10.0
DEATHS_BEFORE_READY_MAX = 8


@dataclass(slots=True)
class RestartPolicy:
    """Deaths in a row of one child; times in seconds."""

    num_short_lives: int = 0
    num_never_ready: int = 0

    def on_death(self, now_s: float, *, lived_s: float, was_ready: bool) -> float | None:
        """When to start it again, or None to give up: eight in a row died before they were ready.

        One that was ready is never given up, because faults can come faster than any count; the pause grows with every
        life shorter than ten seconds.
        """
        self.num_never_ready = 0 if was_ready else self.num_never_ready + 1
        self.num_short_lives = self.num_short_lives + 1 if lived_s < GOOD_LIFE_S else 0
        if self.num_never_ready >= DEATHS_BEFORE_READY_MAX:
            return None
        backoff_s: float = BACKOFF_BASE_S * 2.0 ** max(0, self.num_short_lives - 1)
        return now_s + min(BACKOFF_MAX_S, backoff_s)
