"""Run seeds of the simulation: `python -m tests.simulation FIRST[:LAST] [--without RULE]`.

Prints each seed that broke an invariant with the line that runs it again, then one line of figures. A run is a function
of its seed. `--without RULE` removes one rule of the design, and then seeds must break.
"""

import argparse
import gc
import hashlib
import json
import logging
import os
import re
import sys
import time
import traceback

import structlog

import shared.topics

# Shards of eight lines, so that small batches have several; set before anything else reads it.
shared.topics.SHARD_LINES = 8

from tests.simulation.clock import Deadlock, run_virtually  # noqa: E402
from tests.simulation.invariants import Broken  # noqa: E402
from tests.simulation.rules import RULES, fast_polls, without  # noqa: E402
from tests.simulation.world import World  # noqa: E402

SHOWN_MAX = 5


def run_seed(world: World) -> str | None:
    """Why the seed's run broke, or None."""
    try:
        run_virtually(world.run)
    except (Broken, Deadlock) as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return None


def digest(world: World) -> str:
    """Of everything that is in the log at the end."""
    logs = ((tp, [(r.key, r.value, r.headers) for r in records]) for tp, records in sorted(world.log.records.items()))
    return hashlib.sha256(repr(list(logs)).encode()).hexdigest()


def is_violation(reason: str) -> bool:
    """Whether an invariant was seen to be violated; otherwise a process died of an error of its own."""
    return re.match(r"V\d:", reason) is not None


def main() -> int:
    """Run the seeds; the exit code is the number of broken ones, at most 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", help="FIRST or FIRST:LAST")
    parser.add_argument("--without", choices=sorted(RULES), help="remove this rule")
    parser.add_argument("--stop-after", type=int, default=0, help="stop after so many violated invariants")
    parser.add_argument("--digest", action="store_true", help="show a digest of each seed's log")
    parser.add_argument("--verbose", action="store_true", help="show the log of every process")
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of strings must have one order
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    quiet = logging.DEBUG if arguments.verbose else logging.CRITICAL
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(quiet), cache_logger_on_first_use=not arguments.verbose
    )
    logging.disable(logging.CRITICAL)
    first, _, last = arguments.seeds.partition(":")
    seeds = range(int(first), int(last or int(first) + 1))
    fast_polls()
    if arguments.without:
        without(arguments.without)
    gc.freeze()
    gc.set_threshold(50_000)  # a seed is short, and its garbage can wait for the next
    began, broken, num_violations, num_run = time.perf_counter(), [], 0, 0
    for seed in seeds:
        num_run += 1
        world = World(seed)
        reason = run_seed(world)
        if arguments.digest:
            print(seed, digest(world))
        if reason:
            broken.append(seed)
            num_violations += is_violation(reason)
            if len(broken) <= SHOWN_MAX:
                rule = f" --without {arguments.without}" if arguments.without else ""
                print(f"seed {seed}: {reason}\n  again: python -m tests.simulation {seed}{rule}", flush=True)
            if arguments.stop_after and num_violations >= arguments.stop_after:
                break
    seconds = round(time.perf_counter() - began, 1)
    print(json.dumps({"seeds": num_run, "broken": len(broken), "violations": num_violations, "seconds": seconds}))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
