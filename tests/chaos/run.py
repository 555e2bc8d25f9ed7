"""One chaos run: load, faults, calm, and what the verifier says. See `python -m tests.chaos --help`."""

import bisect
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.environment import DISK_MB, Environment, environment, why_not_ready
from tests.chaos.faults import Injector
from tests.chaos.load import Demand, Sent, Users
from tests.chaos.log_tail import completions_of, facets_of, read_topic
from tests.chaos.outsiders import Outsiders, Requests
from tests.chaos.producers import TopicProducers
from tests.chaos.scrape import Scraper
from tests.chaos.segments import SegmentWatch
from tests.chaos.verifier import Finding, Watch, check_against_log, check_files, figures_of

START_TIMEOUT_S = 120.0
CALM_TIMEOUT_S = 240.0
DEMAND = Demand()


@dataclass
class Result:
    """The figures of one run; times in seconds."""

    seed: int
    tier: str
    minutes: float
    faults: Counter[str]
    batches: Counter[str]
    lines: int
    findings: list[Finding]
    repeated: int
    redriven: int
    requests: Requests
    topic_batches: int = 0
    topic_lines: int = 0
    recovery_s: dict[str, list[float]] = field(default_factory=dict)
    longest_stall_s: float = 0.0
    not_exercised: list[str] = field(default_factory=list)

    def count(self, *kinds: str) -> int:
        """Findings of these kinds."""
        return sum(finding.kind in kinds for finding in self.findings)


def chaos(
    *,
    seed: int,
    minutes: float,
    tier: str,
    faults_per_minute: float,
    only: str = "",
    wrapper: str = "",
    calm_timeout_s: float = CALM_TIMEOUT_S,
    demand: Demand = DEMAND,
    faults_min: int = 0,
    disk_mb: int = DISK_MB,
    **settings: str,
) -> Result:
    """Run and verify.

    `only` chooses faults by a pattern, `wrapper` starts services through another module; faults go on until the minutes
    have passed and there were `faults_min`, or until all batches that the demand has are over.
    """
    rng = random.Random(seed)
    watch = Watch()
    with environment(tier, wrapper, disk_mb, **settings) as env:
        _wait_until_ready(env)
        users, injector = Users(env, rng, watch, demand), Injector(env, rng, only)
        outsiders = Outsiders(env, random.Random(seed), demand.requests_per_second)
        producers = TopicProducers(env, random.Random(seed + 1))
        segments, scraper = SegmentWatch(env.store, watch), Scraper(env.pages)
        users.start()
        outsiders.start()
        if demand.with_topic_batches:
            producers.start()
        segments.start()
        scraper.start()
        try:
            time.sleep(min(5.0, minutes * 10))
            end = time.monotonic() + minutes * 60
            while (time.monotonic() < end or injector.counts.total() < faults_min) and not users.are_served:
                _strike(injector, rng, faults_per_minute)
            injector.mend()
            users.creating = False
            outsiders.stop()
            if demand.with_topic_batches:
                producers.stop()
            findings = _wait_until_closed(users, calm_timeout_s)
            findings += outsiders.check(calm_timeout_s)
            findings += producers.check(calm_timeout_s)
        finally:
            users.stop()
            outsiders.stop()
            segments.stop()
            scraper.stop()
        findings += scraper.check(_num_closed(env), calm_timeout_s)
        findings += segments.check() + _verify(env, users, watch)
        users.close()
        run = {"seed": seed, "tier": tier, "minutes": minutes, "requests": outsiders.acknowledged}
        run |= {"topic_batches": len(producers.batches), "topic_lines": producers.num_lines}
        return _figures(env, users.sent, injector, findings, **run)


def _num_closed(env: Environment) -> int | None:
    """Batches that ended, as the log has it; the broker in memory forgets."""
    if env.tier != "real":
        return None
    facets = facets_of(read_topic(env.bootstrap, env.topics.batches.name, env.topics.batches.partitions))
    return len({key for key, _, _ in facets if key.endswith("/closed")})


def _wait_until_ready(env: Environment) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while reasons := [reason for port in env.api_ports if (reason := why_not_ready(port))]:
        assert time.monotonic() < deadline, f"not ready: {reasons}"
        time.sleep(0.2)


def _strike(injector: Injector, rng: random.Random, faults_per_minute: float) -> None:
    if not faults_per_minute:
        time.sleep(1)
        return
    injector.strike_one()
    time.sleep(rng.expovariate(faults_per_minute / 60))


def _wait_until_closed(users: Users, timeout_s: float) -> list[Finding]:
    """V6: after the last fault every batch closes by itself."""
    deadline = time.monotonic() + timeout_s
    while users.num_open and time.monotonic() < deadline:
        time.sleep(0.5)
    return [Finding("open", sent.batch_id, str(sent.last)) for sent in users.sent if not sent.is_over]


def _verify(env: Environment, users: Users, watch: Watch) -> list[Finding]:
    topic = env.topics.completions
    log = completions_of(read_topic(env.bootstrap, topic.name, topic.partitions))
    findings: list[Finding] = []
    for sent in users.sent:
        if not sent.is_over:
            continue
        output, errors = (users.download(sent.last[name]) for name in ("output_file_id", "error_file_id"))
        for name, content in (("output_file_id", output), ("error_file_id", errors)):
            if sent.last[name]:
                watch.see_content(sent.last[name], content)
        findings += check_files(sent.content, sent.last, output, errors)
        if env.tier == "real":  # the broker in memory forgets the oldest records
            findings += check_against_log(sent.last, output, log)
    return findings + watch.findings


def _figures(env: Environment, sent: list[Sent], injector: Injector, findings: list[Finding], **run: Any) -> Result:
    completions, batches = env.topics.completions, env.topics.batches
    log = completions_of(read_topic(env.bootstrap, completions.name, completions.partitions))
    facets = facets_of(read_topic(env.bootstrap, batches.name, batches.partitions))
    figures = figures_of(log, injector.injected)
    result = Result(
        **run,
        faults=injector.counts,
        batches=Counter(s.last.get("status", "unknown") for s in sent),
        lines=sum(s.content.count(b"\n") + 1 for s in sent),
        findings=findings,
        repeated=figures.num_repeated,
        redriven=sum({key: value["num_lines"] for key, _, value in facets if "/redriven/" in key}.values()),
    )
    # A line is done when it is durable and told, so progress facets are the clock; they come at most once a second.
    told_ms = sorted(at for key, at, _ in facets if "/progress/" in key or key.endswith("/closed"))
    for struck_at, kind in injector.struck:
        index = bisect.bisect_right(told_ms, struck_at * 1000)
        if index < len(told_ms):
            result.recovery_s.setdefault(kind, []).append(told_ms[index] / 1000 - struck_at)
    if env.tier == "real" and not env.disks:
        result.not_exercised.append("full disks: there is no small disk of its own")
    gaps = [(b - a) / 1000 for a, b in zip(figures.times_ms, figures.times_ms[1:], strict=False)]
    result.longest_stall_s = max(gaps, default=0.0)
    return result
