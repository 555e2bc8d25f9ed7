"""20,000 runs of the whole pipeline in simulated time, and its twins, which run without one rule and must break.

A failure prints its seed and the line that runs it again.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.simulation.rules import RULES

NUM_SEEDS = int(os.environ.get("TEST_SIMULATION_SEEDS", "8000"))
FIRST_SEED = int(os.environ.get("TEST_SIMULATION_FIRST_SEED", "0"))
PROCESSES = 2
# Enough for the rarest of the twins.
TWIN_SEEDS = 8_000


def simulate(*arguments: str) -> tuple[dict[str, float], str]:
    """Run seeds in a process of its own, where shards are small and time is not the clock's."""
    # Measuring coverage would double the time, and the same code is covered elsewhere.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    done = subprocess.run(command, env=env | {"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=False)
    *shown, figures = done.stdout.splitlines() or [done.stderr]
    return json.loads(figures), "\n".join(shown)


def test_no_seed_breaks_an_invariant() -> None:
    share = NUM_SEEDS // PROCESSES
    ranges = [f"{FIRST_SEED + n * share}:{FIRST_SEED + (n + 1) * share}" for n in range(PROCESSES)]
    with ThreadPoolExecutor(PROCESSES) as pool:
        results = list(pool.map(simulate, ranges))
    print(f"simulated {ranges}: {[figures for figures, _ in results]}")
    assert not any(figures["broken"] for figures, _ in results), "\n".join(shown for _, shown in results)
    assert sum(figures["seeds"] for figures, _ in results) == share * PROCESSES


def test_a_run_is_a_function_of_its_seed() -> None:
    _, many = simulate("0:120", "--digest")
    _, some = simulate("60:120", "--digest")

    assert len(some.splitlines()) == 60
    assert set(some.splitlines()) <= set(many.splitlines())


@pytest.mark.parametrize("rule", sorted(RULES))
def test_without_this_rule_some_seed_breaks(rule: str) -> None:
    figures, _ = simulate(f"0:{TWIN_SEEDS}", "--without", rule, "--stop-after", "1")
    assert figures["violations"] == 1, f"{TWIN_SEEDS} seeds pass without {rule}: the checker is blind"
