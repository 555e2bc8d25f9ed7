"""When is a dead child started again, and when is it given up? PURE."""

from dataclasses import dataclass, field

BACKOFF_BASE_S, BACKOFF_MAX_S = 0.5, 10.0
DEATHS_MAX, DEATHS_WINDOW_S = 6, 120.0


@dataclass(slots=True)
class RestartPolicy:
    """Deaths of one child; times in seconds of a monotonic clock."""

    deaths: list[float] = field(default_factory=list)

    def on_death(self, now_s: float) -> float | None:
        """When to start it again, or None to give up: it died 6 times in two minutes."""
        self.deaths = [death for death in self.deaths if now_s - death < DEATHS_WINDOW_S] + [now_s]
        if len(self.deaths) >= DEATHS_MAX:
            return None
        backoff_s: float = BACKOFF_BASE_S * 2.0 ** (len(self.deaths) - 1)
        return now_s + min(BACKOFF_MAX_S, backoff_s)
