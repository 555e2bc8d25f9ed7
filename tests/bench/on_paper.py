"""What would a billion requests a day need? Arithmetic on measured costs of a row: `python -m tests.bench.on_paper`.

Every number below is either measured by `make bench` (2 cores, one broker, one store, echo engine) or an assumption
that is named. A worker is taken to do 50 rows a second; how many a GPU does is the model's affair.
"""

import math
import sys
from dataclasses import dataclass

from tests.bench.figure import shown

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured in a noisy hour: microseconds of CPU a row by hop, and bytes a row of request and completion."""

    ingest_us: float = 60.0
    broker_us: float = 60.0
    worker_us: float = 85.0
    # vLLM's own Python in the worker, for 24 output tokens.
    vllm_front_end_us: float = 1_500.0
    collector_us: float = 50.0
    request_bytes: int = 2_300
    completion_bytes: int = 2_500


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Chosen: how full a core may be on average, replicas of the log, and what one thing of each kind can carry."""

    core_use: float = 0.5
    replicas: int = 3
    # Followers copy what the leader wrote: about the cost of a consumer, of which there are two without them.
    follower_share: float = 0.35
    broker_cores: int = 8
    # A request partition is worked on by one worker at a time, a completions partition by one collector.
    rows_per_completions_partition: int = 2_000
    rows_per_worker: int = 50
    segment_bytes: int = 8 * 1024 * 1024
    segment_age_s: float = 1.0
    lines_per_batch: int = 50_000
    # Manifest, validation, final record, file, file's record, output and error file, and the reads of each.
    requests_per_batch: int = 20
    request_retention_days: float = 7.0
    completion_retention_days: float = 3.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What so many rows a day need."""

    rows_per_second: float
    ingest_cores: float
    brokers: int
    worker_cores_beside_vllm: float
    vllm_front_end_cores: float
    workers: int
    request_partitions: int
    collectors: int
    completions_partitions: int
    log_megabytes_per_second: float
    log_terabytes: float
    store_requests_per_second: float
    store_terabytes_per_day: float


def plan(rows_a_day: float, costs: Costs | None = None, assumed: Assumptions | None = None) -> Plan:
    """The arithmetic."""
    c, a = costs or Costs(), assumed or Assumptions()
    rate = rows_a_day / DAY_S

    def cores(us: float) -> float:
        return rate * us / 1e6 / a.core_use

    broker_cores = cores(c.broker_us * (1 + (a.replicas - 1) * a.follower_share))
    workers = math.ceil(rate / a.rows_per_worker)
    completions_partitions = math.ceil(rate / a.rows_per_completions_partition)
    bytes_a_row = c.request_bytes + c.completion_bytes
    kept_s = DAY_S * (a.request_retention_days * c.request_bytes + a.completion_retention_days * c.completion_bytes)
    segments = max(rate * c.completion_bytes / a.segment_bytes, completions_partitions / a.segment_age_s)
    return Plan(
        rows_per_second=rate,
        ingest_cores=cores(c.ingest_us),
        brokers=max(a.replicas, math.ceil(broker_cores / a.broker_cores)),
        worker_cores_beside_vllm=cores(c.worker_us),
        vllm_front_end_cores=cores(c.vllm_front_end_us),
        workers=workers,
        request_partitions=workers,
        collectors=max(1, math.ceil(cores(c.collector_us))),
        completions_partitions=completions_partitions,
        log_megabytes_per_second=rate * bytes_a_row / 1e6,
        log_terabytes=rate * kept_s * a.replicas / 1e12,
        # A segment is written once, listed for and read once; files are written from it.
        store_requests_per_second=3 * segments + rate / a.lines_per_batch * a.requests_per_batch,
        store_terabytes_per_day=rows_a_day * (c.request_bytes + 2 * c.completion_bytes) / 1e12,
    )


def table(days: tuple[float, ...] = (1e6, 1e8, 1e9)) -> str:
    """A Markdown table, one column for each number of rows a day."""
    plans = [plan(rows) for rows in days]
    names = list(Plan.__dataclass_fields__)
    head = "| a day | " + " | ".join(f"{rows:,.0f}" for rows in days) + " |"
    lines = [head, "|---" * (len(days) + 1) + "|"]
    for name in names:
        cells = " | ".join(shown(float(getattr(p, name))) for p in plans)
        lines.append(f"| {name.replace('_', ' ').replace('vllm', 'vLLM')} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
