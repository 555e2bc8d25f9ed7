"""May this caller make another request now? PURE: a token bucket per name, the time is an argument."""

import math


class RateLimiter:
    """Buckets that hold what a minute allows and fill up evenly. Each process counts what it serves."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, name: str, per_minute: int, now_s: float) -> int | None:
        """None when the request may go on, else the whole seconds after which the next one may, 1 to 60."""
        tokens, at = self._buckets.get(name, (float(per_minute), now_s))
        tokens = min(float(per_minute), tokens + max(0.0, now_s - at) * per_minute / 60)
        if tokens < 1:
            self._buckets[name] = (tokens, now_s)
            return max(1, math.ceil(round((1 - tokens) * 60 / per_minute, 6)))
        self._buckets[name] = (tokens - 1, now_s)
        return None
