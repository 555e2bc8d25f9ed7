"""Short forms of the chaos runs, and their twins: the same runs with one rule of the design removed must fail.

The seed is new each time and is printed with the line that runs it again; TEST_CHAOS_SEED fixes it.
"""

import os
import secrets
from concurrent.futures import ThreadPoolExecutor

from tests.chaos.figures import summary, table
from tests.chaos.run import Result, chaos
from tests.conftest import skip_unexercised
from tests.providers import Server, binary

SEED = int(os.environ.get("TEST_CHAOS_SEED", secrets.randbelow(1_000_000)))


def run(**options: object) -> Result:
    arguments = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items() if name != "wrapper")
    print(f"\nagain: python -m tests.chaos --seed {SEED} {arguments}")
    result = chaos(seed=SEED, **options)  # type: ignore[arg-type]
    print(table(summary([result])))
    return result


def assert_nothing_wrong(result: Result) -> None:
    assert result.findings == []
    assert result.redriven == 0, "nothing was lost, so nothing had to be sent again"
    assert sum(result.batches.values()) > 0
    assert sum(result.faults.values()) > 0


def test_broker_in_memory_with_moving_leaders_and_error_codes() -> None:
    assert_nothing_wrong(run(tier="memory", minutes=0.5, faults_per_minute=25))


def test_real_broker_and_store_behind_proxies(real_kafka: Server) -> None:
    if real_kafka.provider != "jvm" or not binary("minio").is_file():
        skip_unexercised("chaos on a real broker and store", "needs Java, and MinIO in the cache (make tools)")
    assert_nothing_wrong(run(tier="real", minutes=1.5, faults_per_minute=15))


def test_without_a_rule_the_verifier_finds_something() -> None:
    with ThreadPoolExecutor(len(TWINS)) as pool:
        results = dict(zip(TWINS, pool.map(sabotaged, TWINS), strict=True))

    blind = [rule for rule, result in results.items() if not any(f.kind in TWINS[rule][1] for f in result.findings)]
    assert not blind, f"nobody noticed what was missing: {blind}"


# Rule removed: the faults that show it, what the verifier must find, and seconds that an answer takes.
TWINS = {
    "bitmap": ("duplicate|kill -9 inference", {"doubled", "counts", "open"}, "0.05"),
    "commit-after-completion": ("kill -9 inference", {"open", "lost"}, "2"),
    "create-only": ("collector", {"changed"}, "0.05"),
}


def sabotaged(rule: str) -> Result:
    return run(
        tier="memory",
        minutes=0.35,
        faults_per_minute=30,
        only=TWINS[rule][0],
        wrapper="tests.chaos.sabotaged",
        calm_timeout_s=30.0,
        TEST_SABOTAGE=rule,
        HEADRACE_INFERENCE__ECHO__LATENCY_S=TWINS[rule][2],
    )
