"""Is what a process needs there? SHELL: each dependency is asked now and then, and unknown is not healthy.

Asked beside the health page, so that a store that hangs does not make the page hang, and a page that is polled often
costs no more.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from shared.metric_names import DEPENDENCY_UP
from shared.telemetry import Telemetry

log = structlog.get_logger(__name__)

CHECK_INTERVAL_S, CHECK_TIMEOUT_S = 10.0, 4.0
# An answer that is older says nothing.
STALE_S = 3 * (CHECK_INTERVAL_S + CHECK_TIMEOUT_S)
NOT_ASKED = "not asked yet"

# Returns when the dependency works, and raises the reason otherwise.
Check = Callable[[], Awaitable[object]]


class Dependencies:
    """What the last answers were."""

    def __init__(
        self, checks: Mapping[str, Check], telemetry: Telemetry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._checks = checks
        self._clock = clock
        self._answers: dict[str, tuple[float, str | None]] = {}
        telemetry.gauge(DEPENDENCY_UP, lambda: {(name,): float(why is None) for name, why in self.states().items()})

    def states(self) -> dict[str, str | None]:
        """By name: why it is not there, or None if it is."""
        oldest = self._clock() - STALE_S
        found = {name: self._answers.get(name, (oldest, NOT_ASKED)) for name in self._checks}
        return {name: "does not answer" if at_s < oldest else why for name, (at_s, why) in found.items()}

    async def watch(self) -> None:
        """Ask until cancelled, each at its own pace."""
        async with asyncio.TaskGroup() as group:
            for name, check in self._checks.items():
                group.create_task(self._watch(name, check), name=f"look at {name}")

    async def _watch(self, name: str, check: Check) -> None:
        while True:
            before, why = self._answers.get(name, (0.0, None))[1], await _reason(check)
            self._answers[name] = self._clock(), why
            if (why is None) != (before is None):
                log.log(
                    logging.INFO if why is None else logging.WARNING, "dependency changed", dependency=name, reason=why
                )
            await asyncio.sleep(CHECK_INTERVAL_S)


async def _reason(check: Check) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check()
    except TimeoutError:
        return f"no answer in {CHECK_TIMEOUT_S:.0f} s"
    except Exception as error:  # noqa: BLE001 - whatever it is, the dependency does not work and the process does
        return str(error) or repr(error)
    return None
