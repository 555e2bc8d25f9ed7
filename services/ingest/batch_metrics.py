"""How many batches are open, and how many will be late? SHELL: gauges, counted when somebody looks at the page."""

import time
from collections import Counter
from collections.abc import Mapping

from services.ingest.batch_extension import estimated_completion_at
from services.ingest.read_model import ReadModel
from shared.metric_names import BATCHES_AT_RISK, BATCHES_OPEN
from shared.telemetry import Telemetry


class BatchMetrics:
    """The gauges of the view."""

    def __init__(self, view: ReadModel, telemetry: Telemetry) -> None:
        self._view = view
        telemetry.gauge(BATCHES_OPEN, self._by_status)
        telemetry.gauge(BATCHES_AT_RISK, self._at_risk)

    def _by_status(self) -> Mapping[tuple[str, ...], float]:
        counts = Counter(str(view.status) for view in self._view.open_batches())
        statuses = ("validating", "in_progress", "finalizing", "cancelling")
        return {(status,): counts[status] for status in statuses}

    def _at_risk(self) -> Mapping[tuple[str, ...], float]:
        now_s = int(time.time())
        ends = [(view, estimated_completion_at(view, now_s)) for view in self._view.open_batches()]
        return {(): sum(end is not None and end > view.created.expires_at for view, end in ends)}
