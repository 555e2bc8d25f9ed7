"""Run a service against the broker in memory: `python -m tests.chaos.patient_leader services.NAME`.

In librdkafka's test cluster the leader's SyncGroup ends the round, and a member whose own comes a moment later is told
that its request is invalid; a broker gives it its assignment. Where more processes run than there are cores, leaders
are often first, and a group may not come together for minutes. So a leader waits before it says who gets what.
"""

import asyncio
import runpy
import sys
from typing import Any

from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance

PATIENCE_S = 0.3


def let_followers_sync_first() -> None:
    """Of every group whose leader is in this process."""
    lead = CoordinatorGroupRebalance._on_join_leader

    async def wait_and_lead(self: Any, response: Any) -> Any:
        await asyncio.sleep(PATIENCE_S)
        return await lead(self, response)

    CoordinatorGroupRebalance._on_join_leader = wait_and_lead


def main() -> None:
    """Be the service."""
    let_followers_sync_first()
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
