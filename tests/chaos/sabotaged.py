"""Run a service with one rule of the design removed: `python -m tests.chaos.sabotaged services.NAME`, for twins.

The rule is named by TEST_SABOTAGE, so that the same command line starts every service of a twin run.
"""

import asyncio
import importlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos import patient_leader

# A segment's write takes this long, so that most frozen collectors wake up in the middle of one, as zombies.
PUT_TAKES_S = 0.5
# Between the commit of an intake record and what came of it.
FORWARD_TAKES_S = 1.0


def _no_bitmap() -> None:
    ledger = importlib.import_module("services.collector.ledger")
    ledger.Shard.has = lambda _self, _line: False


def _commit_early() -> None:
    tracker = importlib.import_module("services.inference.offset_tracker").OffsetTracker
    deliver = tracker.deliver

    def delivered_is_done(self: Any, offset: int) -> bool:
        is_new = deliver(self, offset)
        if is_new:
            self.finish(offset)
        return bool(is_new)

    tracker.deliver = delivered_is_done
    _no_audit()


def _no_audit() -> None:
    auditor = importlib.import_module("services.collector.auditor").Auditor

    async def nothing(*_: Any) -> None:
        return

    auditor.audit = nothing


def _take_time(key: str) -> None:
    if "spool/" in key:
        time.sleep(PUT_TAKES_S)


def _plain_put() -> None:
    s3, files = importlib.import_module("shared.s3_store"), importlib.import_module("shared.directory_store")

    def put(self: Any, url: str, _key: str, body: Any, length: int) -> None:
        _take_time(url)
        self._http.request("PUT", url, body=body, headers={"Content-Length": str(length)})

    def create(self: Any, key: str, write: Callable[[Any], None]) -> None:
        _take_time(key)
        target = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:
            write(out)

    def adopt(self: Any, key: str, path: Path) -> None:
        create(self, key, lambda out: out.write(path.read_bytes()))

    async def trust(*_: Any) -> None:
        return

    s3.S3Store._put = put
    files.DirectoryStore._create_with, files.DirectoryStore._adopt = create, adopt
    setattr(importlib.import_module("shared.open_store"), "probe", trust)  # noqa: B010 - a name it imported


def _commit_before_forward() -> None:
    """Admission is done with a record before anything came of it, and takes its time then."""
    log = importlib.import_module("services.ingest.admission.group_log").GroupLog
    poll = log.poll

    async def polled_is_done(self: Any, **limits: int) -> Any:
        records = await poll(self, **limits)
        if records:
            self.finish()
            await self.commit()
            await asyncio.sleep(FORWARD_TAKES_S)
        return records

    log.poll = polled_is_done


RULES: dict[str, Callable[[], None]] = {
    "bitmap": _no_bitmap,
    "commit-after-completion": _commit_early,
    "create-only": _plain_put,
    "commit-after-forward": _commit_before_forward,
}


def main() -> None:
    """Remove the rule, then be the service."""
    RULES[os.environ["TEST_SABOTAGE"]]()
    patient_leader.main()


if __name__ == "__main__":
    main()
