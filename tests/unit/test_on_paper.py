"""The README's page about scale is what its arithmetic says, and the arithmetic adds up."""

from pathlib import Path

import pytest

from tests.bench.on_paper import Assumptions, Costs, plan, table

README = Path(__file__).parents[2] / "README.md"


def test_readme_shows_what_the_code_computes() -> None:
    assert table() in README.read_text()


def test_a_day_of_a_billion() -> None:
    costs = Costs(ingest_us=100, collector_us=100, request_bytes=1_000, completion_bytes=3_000)
    assumed = Assumptions(core_use=0.5, rows_per_worker=100, rows_per_completions_partition=1_000)

    found = plan(864e6, costs, assumed)  # 10,000 a second

    assert found.rows_per_second == 10_000
    assert found.ingest_cores == pytest.approx(2.0)
    assert (found.workers, found.request_partitions) == (100, 100)
    assert (found.collectors, found.completions_partitions) == (2, 10)
    assert found.log_megabytes_per_second == pytest.approx(40)
    assert found.store_terabytes_per_day == pytest.approx(864e6 * 7_000 / 1e12)


def test_little_needs_the_least_of_each() -> None:
    found = plan(1_000)

    assert (found.brokers, found.workers, found.collectors, found.completions_partitions) == (3, 1, 1, 1)
