"""The long runs: `python -m tests.chaos.soak [--seed S] [--faults N] [--lines N]`, or `make soak`.

First 50,000-line batches in a loop under at least 200 faults, then one batch of 1,000,000 lines, with faults too.
Prints the figures of both as a table and as JSON; the exit code is 1 when the verifier found anything.
"""

import argparse
import secrets
import sys

from tests.chaos.figures import as_json, summary, table
from tests.chaos.load import Demand
from tests.chaos.run import chaos

# An engine that costs nothing, so that the time goes into what is tested.
_FAST = {
    "HEADRACE_INFERENCE__ECHO__LATENCY_S": "0",
    "HEADRACE_INFERENCE__ECHO__JITTER_S": "0",
    "HEADRACE_INFERENCE__WINDOW": "512",
    "HEADRACE_INGEST__BATCH_LINES_MAX": "1000000",
    "HEADRACE_INGEST__BATCH_FILE_BYTES_MAX": "2000000000",
    "HEADRACE_INGEST__FILE_BYTES_MAX": "2000000000",
}


def main() -> int:
    """Run both; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--faults", type=int, default=200, help="at least so many in the loop")
    parser.add_argument("--lines", type=int, default=1_000_000, help="of the large batch")
    arguments = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    print(f"again: python -m tests.chaos.soak --seed {seed}", flush=True)
    loop = Demand(50_000, 50_000, open_max=2)
    large = Demand(arguments.lines, arguments.lines, open_max=1, num_batches=1, with_ends=False)
    is_wrong = False
    for name, demand, faults in (("loop", loop, arguments.faults), ("large batch", large, 0)):
        result = chaos(
            seed=seed,
            minutes=0.1 if faults else 60.0,
            tier="real",
            faults_per_minute=20 if faults else 3,
            demand=demand,
            faults_min=faults,
            disk_mb=0,
            calm_timeout_s=900.0,
            **_FAST,
        )
        for finding in result.findings[:20]:
            print(f"  {finding.kind}: {finding.batch_id}: {finding.text[:300]}")
        figures = summary([result])
        print(f"--- {name}\n{table(figures)}\n{as_json(figures)}", flush=True)
        is_wrong = is_wrong or bool(result.findings)
    return int(is_wrong)


if __name__ == "__main__":
    sys.exit(main())
