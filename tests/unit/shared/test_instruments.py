"""Counters and histograms of ours: every value counts, whoever adds it, and is on the page as Prometheus wants it."""

from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.metrics import CallbackOptions
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import REGISTRY

from shared.instruments import NOTED_MAX, Distribution, Tally
from shared.metric_names import FILE_BYTES, Metric
from shared.metric_page import PageReader
from shared.settings import TelemetrySettings
from shared.telemetry import Telemetry

WAIT = Metric("test.instruments.wait", "histogram", "s", "Waits", ("class",), (0.5, 1.0, 2.0))


def test_counter_loses_nothing_between_threads() -> None:
    tally = Tally()

    def add(_: int) -> None:
        for _ in range(1000):
            tally.add(1, {"a": "b"})
            tally.of({"a": "b"}).add(1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    found = [(observation.attributes, observation.value) for observation in tally.observe(CallbackOptions())]
    assert found == [({"a": "b"}, 8000)]


def test_labels_are_the_same_in_any_order() -> None:
    tally = Tally()
    tally.add(1, {"a": "1", "b": "2"})
    tally.add(2, {"b": "2", "a": "1"})
    tally.add(5)
    found = {tuple(observation.attributes or ()): observation.value for observation in tally.observe(CallbackOptions())}
    assert found == {("a", "b"): 3, (): 5}
    tally.of({"b": "2", "a": "1"}).add(4)
    assert {observation.value for observation in tally.observe(CallbackOptions())} == {7, 5}


def test_few_are_kept_until_they_are_added_up() -> None:
    tally, distribution = Tally(), Distribution(WAIT)
    for number in range(5 * NOTED_MAX + 3):
        tally.add(number)
        distribution.record(1.0)
        assert max(len(tally._noted), len(distribution._noted)) < NOTED_MAX
    data = distribution.data().data
    assert isinstance(data, Histogram) and data.data_points[0].count == 5 * NOTED_MAX + 3


def test_what_nobody_reads_is_not_kept() -> None:
    tally, distribution = Tally(is_read=False), Distribution(WAIT, is_read=False)
    tally.add(1)
    distribution.record(1.0)
    assert not list(tally.observe(CallbackOptions()))
    data = distribution.data().data
    assert isinstance(data, Histogram) and not data.data_points


@given(st.lists(st.sampled_from([*WAIT.buckets]) | st.floats(-1.0, 4.0), min_size=1, max_size=50))
def test_each_value_is_in_the_first_bucket_that_holds_it(values: list[float]) -> None:
    distribution = Distribution(WAIT)
    distribution.of({}).record_all(values)
    data = distribution.data().data
    assert isinstance(data, Histogram)
    [point] = data.data_points
    found = [sum(max(0.0, value) <= bound for value in values) for bound in (*WAIT.buckets, float("inf"))]
    assert point.bucket_counts == tuple(b - a for a, b in zip([0, *found], found, strict=False))
    assert point.sum == pytest.approx(sum(max(0.0, value) for value in values))


def test_values_are_in_the_bucket_whose_upper_bound_they_do_not_pass() -> None:
    distribution = Distribution(WAIT)
    batch = distribution.of({"class": "batch"})
    batch.record_all([0.1, 0.5, 0.6, 1.0, 3.0])
    batch.record_all([])
    distribution.record(9.0, {"class": "batch"})
    data = distribution.data().data
    assert isinstance(data, Histogram)
    [point] = data.data_points
    assert (point.count, point.bucket_counts, point.explicit_bounds) == (6, (2, 2, 0, 2), (0.5, 1.0, 2.0))
    assert abs(point.sum - 14.2) < 1e-9 and point.attributes == {"class": "batch"}


def test_histogram_is_on_the_page_beside_instruments_of_the_client() -> None:
    distribution = Distribution(WAIT)
    distribution.of({"class": "batch"}).record_all([0.1, 1.5])
    provider = MeterProvider([PageReader(InstrumentationScope("test"), lambda: [distribution.data()])])
    provider.get_meter("test").create_counter("test.instruments.calls").add(3)
    page = {family.name: family for family in REGISTRY.collect()}
    provider.shutdown()
    found = {
        (sample.name.rpartition("_")[2], sample.labels.get("le")): sample.value
        for sample in page["test_instruments_wait_seconds"].samples
        if sample.labels["class"] == "batch"
    }
    assert found == {
        ("bucket", "0.5"): 1,
        ("bucket", "1.0"): 1,
        ("bucket", "2.0"): 2,
        ("bucket", "+Inf"): 2,
        ("count", None): 2,
        ("sum", None): 1.6,
    }
    assert page["test_instruments_calls"].samples[0].value == 3


def test_page_says_whose_it_is() -> None:
    telemetry = Telemetry("collector", TelemetrySettings(), serve_metrics=True)
    telemetry.counter(FILE_BYTES)
    page = [family.samples for family in REGISTRY.collect() if family.name == "target"]
    cast("MeterProvider", telemetry.meters).shutdown()
    assert "headrace-collector" in {sample.labels["service_name"] for samples in page for sample in samples}
