"""What does it cost a worker to count and to time a line? CPU by function: `python -m tests.bench.counting`."""

import time
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition

from services.inference.completion import Completion
from services.inference.finished_record import line_times
from services.inference.job import Done, Job
from services.inference.worker_metrics import WorkerMetrics
from shared.messages import Usage
from shared.record_headers import RequestHeaders
from shared.settings import TelemetrySettings
from shared.telemetry import Telemetry

LINES, GROUPS = 120, 500


def main() -> None:
    """Count groups of lines as a busy worker publishes them, and print microseconds a line."""
    room: Any = SimpleNamespace(num_inside=1, window=2)
    in_flight: Any = SimpleNamespace(total=1)
    telemetry = Telemetry("bench", TelemetrySettings(), serve_metrics=True)
    metrics = WorkerMetrics(telemetry, model="m", engine="echo", room=room, in_flight=in_flight, assigned={})
    job = Job(
        tp=TopicPartition("t", 0),
        offset=1,
        headers=RequestHeaders(batch_id="b", line=1, total=2, deadline_s=9),
        custom_id="c",
        url="/v1/chat/completions",
        body=b"",
        prompt=b"",
        request_id="r",
    )
    group = [Done(job, Completion(b"x", True, Usage(1, 2, 0, 0)), 3.0, 4.0)] * LINES
    metrics.count(group)  # the first one makes the series
    began = time.process_time()
    for _ in range(GROUPS):
        metrics.count(group)
    counted = time.process_time()
    for done in group * GROUPS:
        line_times(done, "inference-0")
    timed = time.process_time()
    total = LINES * GROUPS / 1e6
    print(f"counting {(counted - began) / total:.1f} us a line, timing {(timed - counted) / total:.1f} us")


if __name__ == "__main__":
    main()
