"""How is a set of chaos runs told? As a table and as JSON."""

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.chaos.run import Result


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies; 0 when there are none."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[min(98, max(0, round(share * 100) - 1))]


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Everything that is published about the runs."""
    faults, batches = sum((r.faults for r in results), Counter()), sum((r.batches for r in results), Counter())
    recovery: dict[str, list[float]] = {}
    for result in results:
        for kind, values in result.recovery_s.items():
            recovery.setdefault(kind, []).extend(values)
    lines = sum(r.lines for r in results)
    return {
        "runs": len(results),
        "seeds": [r.seed for r in results],
        "minutes": sum(r.minutes for r in results),
        "faults": sum(faults.values()),
        "faults_by_type": dict(sorted(faults.items())),
        "batches": dict(sorted(batches.items())),
        "lines": lines,
        "batches_by_topic": sum(r.topic_batches for r in results),
        "lines_by_topic": sum(r.topic_lines for r in results),
        "requests": sum(len(r.requests.texts) for r in results),
        "hostile_records": sum(len(r.requests.hostile) for r in results),
        "requests_answered_twice": sum(r.requests.num_repeated for r in results),
        "lost": sum(r.count("lost") for r in results),
        "duplicated": sum(r.count("doubled") for r in results),
        "crossed": sum(r.count("crossed", "order") for r in results),
        "changed_files": sum(r.count("changed") for r in results),
        "wrong_counts": sum(r.count("counts") for r in results),
        "misplaced_ends": sum(r.count("cancel") for r in results),
        "wrong_metrics": sum(r.count("metrics") for r in results),
        "still_open": sum(r.count("open") for r in results),
        "not_exercised": sorted({reason for r in results for reason in r.not_exercised}),
        "redriven": sum(r.redriven for r in results),
        "inference_twice_percent": round(100 * sum(r.repeated for r in results) / max(1, lines), 2),
        "longest_stall_s": round(max((r.longest_stall_s for r in results), default=0.0), 1),
        "recovery_s": {
            kind: {"n": len(v)} | {f"p{p}": round(percentile(v, p / 100), 1) for p in (50, 95, 99)}
            for kind, v in sorted((recovery | {"all": [x for v in recovery.values() for x in v]}).items())
        },
    }


def table(figures: dict[str, Any]) -> str:
    """The same for people."""
    rows = [(name, value) for name, value in figures.items() if not isinstance(value, dict | list)]
    text = [f"{name:26} {value}" for name, value in rows]
    text.append(f"{'batches':26} " + ", ".join(f"{n} {name}" for name, n in figures["batches"].items()))
    text.append(
        f"\n{'fault':26} {'times':>6} {'recovery p50':>13} {'p95':>6} {'p99':>6}  (s, to the next line made durable)"
    )
    for kind, times in figures["faults_by_type"].items():
        found = figures["recovery_s"].get(kind, {"p50": "-", "p95": "-", "p99": "-"})
        text.append(f"{kind:26} {times:6} {found['p50']:>13} {found['p95']:>6} {found['p99']:>6}")
    found = figures["recovery_s"]["all"]
    text.append(f"{'all':26} {figures['faults']:6} {found['p50']:>13} {found['p95']:>6} {found['p99']:>6}")
    text += [f"not exercised: {reason}" for reason in figures["not_exercised"]]
    return "\n".join(text)


def as_json(figures: dict[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(figures)
