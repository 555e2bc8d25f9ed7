"""Twins of the chaos runs: the same run with one rule of the design removed, which the verifier must notice."""

from dataclasses import dataclass

from tests.chaos.run import Result, chaos

MINUTES = 0.35


@dataclass(frozen=True)
class Twin:
    """The faults that show that a rule is missing, what the verifier must find, and how long an answer takes."""

    faults: str
    kinds: frozenset[str]
    latency_s: float

    def is_noticed(self, result: Result) -> bool:
        """Whether the verifier found what the missing rule lets happen."""
        return any(finding.kind in self.kinds for finding in result.findings)


TWINS = {
    "bitmap": Twin("duplicate|kill -9 inference", frozenset({"doubled", "counts", "open"}), 0.05),
    "commit-after-completion": Twin("kill -9 inference", frozenset({"open", "lost"}), 2.0),
    "commit-after-forward": Twin("kill -9 ingest", frozenset({"lost"}), 0.05),
    "create-only": Twin("SIGSTOP collector", frozenset({"changed"}), 0.05),
}


def without(rule: str, seed: int) -> Result:
    """A short run without the rule."""
    return chaos(
        tier="memory",
        seed=seed,
        minutes=MINUTES,
        faults_per_minute=30,
        faults_min=4,
        only=TWINS[rule].faults,
        wrapper="tests.chaos.sabotaged",
        calm_timeout_s=20.0,
        TEST_SABOTAGE=rule,
        HEADRACE_INFERENCE__ECHO__LATENCY_S=str(TWINS[rule].latency_s),
    )
