"""Chaos runs: `python -m tests.chaos [--minutes M] [--seed S] [--runs N] [--tier real|memory]`, or `make chaos`.

A run starts a broker, an S3 server and all services, lets users send batches, does harm at random moments, waits until
every batch has ended, and verifies every line. Prints a table and, as its last line, the figures as JSON. The exit code
is 1 when anything was lost, doubled, crossed, changed, miscounted or left open.

With `--without RULE` the run is a twin: a short one in memory with a rule of the design removed, which must be noticed.
"""

import argparse
import secrets
import sys
from pathlib import Path

from tests.chaos.figures import as_json, summary, table
from tests.chaos.run import Result, chaos
from tests.chaos.twins import TWINS, without

SHOWN_MAX = 20


def again(arguments: argparse.Namespace, seed: int) -> str:
    """The line that runs a seed again."""
    if arguments.without:
        return f"python -m tests.chaos --seed {seed} --without {arguments.without}"
    return (
        f"python -m tests.chaos --tier {arguments.tier} --seed {seed} --minutes {arguments.minutes} "
        f"--faults-per-minute {arguments.faults_per_minute}" + (f" --only '{arguments.only}'" if arguments.only else "")
    )


def main() -> int:
    """Run as asked; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="of faults, per run")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--runs", type=int, default=1, help="runs with the seeds that follow")
    parser.add_argument("--tier", choices=("real", "memory"), default="real")
    parser.add_argument("--faults-per-minute", type=float, default=12.0)
    parser.add_argument("--only", default="", help="faults whose name has this pattern")
    parser.add_argument(
        "--without", choices=tuple(TWINS), default="", help="a rule to leave out; the run is then short"
    )
    parser.add_argument("--json", default="", help="a file for the figures")
    arguments = parser.parse_args()
    first = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    results: list[Result] = []
    for seed in range(first, first + arguments.runs):
        print(f"seed {seed}; again: {again(arguments, seed)}", flush=True)
        result = _run(arguments, seed)
        for finding in result.findings[:SHOWN_MAX]:
            print(f"  {finding.kind}: {finding.batch_id}: {finding.text[:300]}", flush=True)
        results.append(result)
    figures = summary(results)
    print(table(figures))
    if arguments.json:
        Path(arguments.json).write_text(as_json(figures) + "\n")
    print(as_json(figures))
    return 1 if any(result.findings for result in results) else 0


def _run(arguments: argparse.Namespace, seed: int) -> Result:
    if arguments.without:
        return without(arguments.without, seed)
    return chaos(
        seed=seed,
        minutes=arguments.minutes,
        tier=arguments.tier,
        faults_per_minute=arguments.faults_per_minute,
        only=arguments.only,
    )


if __name__ == "__main__":
    sys.exit(main())
