"""May this tenant have more? SHELL: reads the view, refuses what is over its limits."""

import time

from services.ingest.limits import TenantLimits
from services.ingest.read_model import ReadModel
from shared.errors import HeadraceError

# Batches end by themselves: an SDK that waits so long and tries again may get through.
OPEN_BATCHES_RETRY_S = 60


class QuotaReached(HeadraceError):
    """The tenant has what it may have; `retry_after_s` is None when waiting alone does not help."""

    def __init__(self, message: str, retry_after_s: int | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Quota:
    """Limits that are counted over all instances, as far as the view has followed the log."""

    def __init__(self, view: ReadModel, limits: TenantLimits) -> None:
        self._view = view
        self._limits = limits

    def check_stored_bytes(self, tenant: str, num_bytes: int) -> None:
        """Refuse a file for which there is no room; raises QuotaReached."""
        maximum = self._limits.of(tenant).stored_bytes
        if maximum is None:
            return
        stored = self._view.stored_bytes(tenant, int(time.time()))
        if stored + num_bytes > maximum:
            text = f"Storage limit reached: {stored} of {maximum} bytes are in use, {num_bytes} more do not fit."
            raise QuotaReached(f"{text} Delete files that are no longer needed.", None)

    def check_open_batches(self, tenant: str) -> None:
        """Refuse a batch while too many are open; raises QuotaReached."""
        maximum = self._limits.of(tenant).open_batches
        if maximum is None:
            return
        num_open = sum(view.created.tenant == tenant for view in self._view.open_batches())
        if num_open >= maximum:
            text = f"Batch limit reached: {num_open} batches are open, the limit is {maximum}."
            raise QuotaReached(f"{text} Please try again once some of them have ended.", OPEN_BATCHES_RETRY_S)

    def queued_lines_left(self, tenant: str, but_for: str) -> int | None:
        """How many more lines may wait, with one batch left out; None without a limit."""
        maximum = self._limits.of(tenant).queued_lines
        if maximum is None:
            return None
        queued = sum(
            view.dispatch.total - view.answered
            for view in self._view.open_batches()
            if view.created.tenant == tenant and view.created.id != but_for and view.dispatch is not None
        )
        return max(0, maximum - queued)
