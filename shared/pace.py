"""How often may something be done that costs the same for one record as for a hundred? SHELL: sleeps."""

import asyncio
import time


class Pace:
    """Turns at least so far apart, in seconds; one that comes after a pause is at once."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._last_s = -interval_s

    async def turn(self) -> None:
        """Return when the next turn may begin."""
        wait_s = self._last_s + self._interval_s - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        self._last_s = time.monotonic()
