"""How do histograms of ours come onto the page of metrics? The reader of the client's adds them to what it reads."""

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import Metric, MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope


class PageReader(PrometheusMetricReader):
    """Fills Prometheus' page from the client's instruments, of which there must be one, and from `read`."""

    def __init__(self, scope: InstrumentationScope, read: Callable[[], Sequence[Metric]]) -> None:
        self._scope = scope
        self._read = read
        super().__init__()

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: Any) -> None:
        ours = ScopeMetrics(self._scope, self._read(), self._scope.schema_url or "")
        resources = [*metrics_data.resource_metrics, ResourceMetrics(Resource.get_empty(), [ours], "")]
        super()._receive_metrics(MetricsData(resources), timeout_millis, **options)
