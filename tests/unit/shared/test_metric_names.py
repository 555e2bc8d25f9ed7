"""The list of all metrics: names that the conventions allow, and labels that stay few."""

from shared import metric_names
from shared.metric_names import BATCH_DURATION, BATCHES_OPEN, FILE_BYTES, LINES_FINISHED, METRICS
from shared.settings import TelemetrySettings
from shared.telemetry import Telemetry

# A series lives as long as its process: what grows without end is no label.
NEVER = {"batch", "batch_id", "request", "request_id", "custom_id", "key", "key_id", "tenant", "user", "offset"}


def test_every_metric_is_listed_once_and_by_its_prefix() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names) > 20
    assert all(name.startswith(("headrace.", "gen_ai.", "messaging.")) for name in names)
    assert all(metric.help and metric.unit for metric in METRICS)
    assert not NEVER & {label for metric in METRICS for label in metric.labels}
    assert all(bool(metric.buckets) == (metric.kind == "histogram") for metric in METRICS)


def test_names_on_a_page_are_those_of_prometheus() -> None:
    assert LINES_FINISHED.prometheus_names == ("headrace_lines_finished_total",)
    assert FILE_BYTES.prometheus_names == ("headrace_files_stored_bytes_total",)
    assert BATCHES_OPEN.prometheus_names == ("headrace_batches_open",)
    assert BATCH_DURATION.prometheus_names[0] == "headrace_batch_duration_seconds_bucket"


def test_instrument_that_is_asked_for_twice_is_the_same_one() -> None:
    telemetry = Telemetry("test", TelemetrySettings())
    assert telemetry.counter(LINES_FINISHED) is telemetry.counter(LINES_FINISHED)
    assert telemetry.histogram(metric_names.SEGMENT_APPEND) is telemetry.histogram(metric_names.SEGMENT_APPEND)
