"""Short forms of the chaos runs, and their twins: the same runs with one rule of the design removed must fail.

The seed is new each time and is printed with the line that runs it again; TEST_CHAOS_SEED fixes it.
"""

import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.chaos.figures import summary, table
from tests.chaos.run import Result, chaos
from tests.chaos.twins import TWINS, without
from tests.conftest import skip_unexercised
from tests.providers import Server, binary

SEED = int(os.environ.get("TEST_CHAOS_SEED", secrets.randbelow(1_000_000)))


def run(tier: str, minutes: float, faults_per_minute: float) -> Result:
    arguments = f"--tier {tier} --minutes {minutes} --faults-per-minute {faults_per_minute}"
    print(f"\nagain: python -m tests.chaos --seed {SEED} {arguments}")
    result = chaos(seed=SEED, tier=tier, minutes=minutes, faults_per_minute=faults_per_minute)
    print(table(summary([result])))
    return result


def assert_nothing_wrong(result: Result) -> None:
    assert result.findings == []
    assert result.redriven == 0, "nothing was lost, so nothing had to be sent again"
    assert sum(result.batches.values()) > 0
    assert result.requests.texts and result.requests.hostile and result.topic_lines
    assert sum(result.faults.values()) > 0


def test_broker_in_memory_with_moving_leaders_and_error_codes() -> None:
    assert_nothing_wrong(run(tier="memory", minutes=0.5, faults_per_minute=25))


def test_real_broker_and_store_behind_proxies(real_kafka: Server) -> None:
    if real_kafka.provider != "jvm" or not binary("minio").is_file():
        skip_unexercised("chaos on a real broker and store", "needs Java, and MinIO in the cache (make tools)")
    assert_nothing_wrong(run(tier="real", minutes=1.5, faults_per_minute=15))


def test_without_a_rule_the_verifier_finds_something() -> None:
    with ThreadPoolExecutor(len(TWINS)) as pool:
        results = dict(zip(TWINS, pool.map(partial(without, seed=SEED), TWINS), strict=True))
    for rule, result in results.items():
        print(f"\nagain: python -m tests.chaos --seed {SEED} --without {rule}\n{table(summary([result]))}")

    blind = [rule for rule, result in results.items() if not TWINS[rule].is_noticed(result)]
    assert not blind, f"nobody noticed what was missing: {blind}"
