"""How many lines may be in the engine, and how many may wait beside it? PURE: the engine's own signals in, numbers out.

Too few lines starve the engine, and more than half as many again as it runs at once were never better (measured on
vLLM). Where its KV cache holds fewer than it has places for, the window follows what really runs.
"""

import math
from dataclasses import dataclass

from services.inference.engine import EngineLoad

# Lines per place of the engine: at first, at least and at most.
START, FLOOR, CAP = 1.5, 0.25, 2.0
GROWTH = 1.25
SHRINK = 0.9
# From here on the KV cache is what limits the engine, not its places.
KV_CACHE_FULL = 0.9
# Lines that wait beside the engine are about what it does in this time.
LOOK_AHEAD_S = 10.0
LOOK_AHEAD_MAX = 512
# Records of one poll: they are parsed at one go on the loop that also sends heartbeats.
FETCH_MAX = 256
# Before its speed is known, so many windows.
LOOK_AHEAD_START = 8


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """Lines in the engine: at first, at least, at most."""

    start: int
    floor: int
    cap: int

    @classmethod
    def of(cls, num_slots: int, fixed: int = 0) -> "WindowLimits":
        """From what the engine runs at once, or one size for ever."""
        if fixed:
            return cls(fixed, fixed, fixed)
        return cls(*(max(1, math.ceil(num_slots * share)) for share in (START, FLOOR, CAP)))


def next_window(window: int, limits: WindowLimits, load: EngineLoad, *, num_inside: int, num_preempted: int) -> int:
    """The window from now on. `num_inside` = lines that were let in; `num_preempted` = since it was last decided."""
    if num_preempted:  # what runs does not fit, and is computed twice
        wanted = int(min(window, load.running) * SHRINK)
    elif load.waiting and load.kv_cache_usage >= KV_CACHE_FULL:
        wanted = min(window, math.ceil(load.running * START))
    elif num_inside >= window and not load.waiting:  # it took all that it was given
        wanted = math.ceil(window * GROWTH)
    elif num_inside >= window and load.kv_cache_usage < KV_CACHE_FULL:  # back to where it began
        wanted = max(window, min(limits.start, math.ceil(window * GROWTH)))
    else:
        wanted = window
    return max(limits.floor, min(limits.cap, wanted))


def look_ahead(window: int, lines_per_second: float | None) -> int:
    """Lines that may wait beside the engine: enough to be ordered, too few to be missed by a faster worker."""
    wanted = LOOK_AHEAD_START * window if lines_per_second is None else math.ceil(lines_per_second * LOOK_AHEAD_S)
    return min(LOOK_AHEAD_MAX, max(window, wanted))


def lines_to_fetch(room: int, look_ahead_lines: int) -> int:
    """How many records to poll when there is room for so many; small polls wait until a quarter is free."""
    return min(FETCH_MAX, room) if room >= max(1, look_ahead_lines // 4) else 0
