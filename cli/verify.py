"""`headrace verify`: check a batch from the object store alone. SHELL."""

import asyncio
import sys
from collections.abc import Sequence

from services.collector.verify import Report, Verifier
from shared.open_store import open_store
from shared.settings import ServiceSettings, StoreSettings, load_settings


def verify(batch_ids: Sequence[str], store: str) -> int:
    """Print one block per batch; the exit code is 1 when something does not agree."""
    settings = load_settings(ServiceSettings).store.model_copy(update={"url": store})
    reports = asyncio.run(_verify(batch_ids, settings))
    for report in reports:
        _show(report)
    return 1 if any(report.problems for report in reports) else 0


async def _verify(batch_ids: Sequence[str], settings: StoreSettings) -> list[Report]:
    store = await open_store(settings)
    try:
        verifier = Verifier(store)
        return [await verifier.verify(batch_id) for batch_id in batch_ids]
    finally:
        await store.close()


def _show(report: Report) -> None:
    for line in report.checked:
        print(f"  ok  {line}")
    for line in report.problems:
        print(f"  !!  {line}", file=sys.stderr)
    print(f"{report.batch_id} ({report.status}): {'DOES NOT AGREE' if report.problems else 'agrees'}")
