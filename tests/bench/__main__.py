"""Measure everything that has a target, in one go: `python -m tests.bench [--only NAMES] [--json FILE] [--quick]`.

Machines are noisy, so what is compared runs in turns within one run, and the median of the rounds counts.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cli.local_kafka import java_problem
from cli.up import inference_python
from shared.errors import SetupError
from tests.bench import (
    api_cost,
    batch_tax,
    echo_rows,
    idle_stack,
    intake,
    large_batch,
    prefix_cache,
    scale_out,
    telemetry_cost,
)
from tests.bench.figure import Figure, as_json, table

Part = Callable[[], list[Figure]]
PARTS: Mapping[str, Part] = {
    "echo": echo_rows.measure,
    "idle": idle_stack.measure,
    "telemetry": telemetry_cost.measure,
    "intake": intake.measure,
    "scale": scale_out.measure,
    "upload": api_cost.measure_upload,
    "tax": batch_tax.measure,
    "prefix": prefix_cache.measure,
    "large": large_batch.measure,
}
# The same with fewer rows and rounds: shows that it runs, not how fast.
QUICK: Mapping[str, Part] = {
    "echo": lambda: echo_rows.measure(rows=2_000, rounds=1),
    "idle": lambda: idle_stack.measure(rounds=1, idle_s=2.0),
    "telemetry": lambda: telemetry_cost.measure(rows=2_000, pairs=1, rounds=1),
    "intake": lambda: intake.measure(rounds=1, records=2_000, singles=10),
    "scale": lambda: scale_out.measure(seconds=1),
    "large": lambda: large_batch.measure(large=60_000),
}
NEED_VLLM = frozenset({"tax", "prefix"})


def missing(name: str) -> str | None:
    """Why a part cannot run here, or None."""
    if problem := java_problem():
        return problem
    if name in NEED_VLLM:
        try:
            inference_python()
        except SetupError as error:
            return str(error)
    return None


def main() -> int:
    """Print the table; exit code 1 when a part could not run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", default="", help=f"some of: {','.join(PARTS)}")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--quick", action="store_true", help="see that it runs")
    arguments = parser.parse_args()
    parts = QUICK if arguments.quick else PARTS
    names = arguments.only.split(",") if arguments.only else list(parts)
    figures: list[Figure] = []
    left_out: dict[str, str] = {}
    for name in names:
        if reason := missing(name):
            left_out[name] = reason
            continue
        began = time.monotonic()
        figures += parts[name]()
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print(table(figures))
    for name, reason in left_out.items():
        print(f"not measured: {name}: {reason}")
    if arguments.json:
        arguments.json.write_text(as_json(figures) + "\n")
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
