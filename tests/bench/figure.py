"""What does a bench say? One figure beside its target, and a table of them."""

import json
import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

_COMPARE: dict[str, Callable[[float, float], bool]] = {"≥": operator.ge, "≤": operator.le, "<": operator.lt}


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value; `target` is like "≥ 0.97", `rounds` are what `value` is the median of."""

    name: str
    value: float
    unit: str = ""
    target: str = ""
    rounds: tuple[float, ...] = ()
    detail: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if not self.target:
            return None
        sign, _, limit = self.target.partition(" ")
        return _COMPARE[sign](self.value, float(limit.replace(",", "")))


def median_of(name: str, rounds: Sequence[float], unit: str = "", target: str = "", **detail: object) -> Figure:
    """A figure of several rounds."""
    return Figure(name, statistics.median(rounds), unit, target, tuple(rounds), detail)


def shown(value: float) -> str:
    """Three digits that say something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(figures: Sequence[Figure]) -> str:
    """All figures as lines of text."""
    verdict = {True: "met", False: "MISSED", None: ""}
    rows = [("figure", "value", "target", "", "rounds")]
    for f in figures:
        rounds = " ".join(shown(value) for value in f.rounds)
        rows.append((f.name, f"{shown(f.value)} {f.unit}".strip(), f.target, verdict[f.is_met], rounds))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def as_json(figures: Sequence[Figure]) -> str:
    """All figures as one line of JSON."""
    return json.dumps([asdict(figure) | {"met": figure.is_met} for figure in figures])
