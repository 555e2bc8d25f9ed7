"""What `headrace doctor` makes of what it hears."""

import time
from email.utils import formatdate
from typing import Any

from cli.doctor import clock, engine, fleet
from cli.show import cell


def worker(name: str, state: str = "ready", version: str = "1.0") -> dict[str, Any]:
    load = {"engine": "vllm", "in_flight": 3, "running": 2, "waiting": 1, "lines_per_second": 4.25}
    return {"id": name, "state": state, "alive": state == "ready", "version": version} | load


def well(workers: list[dict[str, Any]]) -> dict[str, bool]:
    return {finding.check: finding.ok for finding in fleet(workers, "1.0")}


def test_clock_that_is_off_is_told() -> None:
    now_s = time.time()
    assert clock(formatdate(now_s), now_s).ok
    assert not clock(formatdate(now_s - 60), now_s).ok
    assert not clock("", now_s).ok


def test_fleet_that_is_silent_empty_or_mixed_is_told() -> None:
    good = {"engine of a": True, "engine of b": True}
    assert well([worker("a"), worker("b")]) == {"workers": True, "versions": True} | good
    assert well([worker("a"), worker("b", "silent")]) == {"workers": False, "versions": True, "engine of a": True}
    assert well([]) == {"workers": False, "versions": True}
    assert well([worker("a", version="0.9")]) == {"workers": True, "versions": False, "engine of a": True}
    assert well([worker("a", "joining")])["engine of a"] is False


def test_engine_is_told_as_far_as_it_tells() -> None:
    assert engine(worker("a")) == "vllm, ready, 3 lines held, 2 running, 1 waiting, 4.25 lines/s"
    silent = worker("a") | {"running": None, "waiting": None, "lines_per_second": None}
    assert engine(silent) == "vllm, ready, 3 lines held"


def test_cells_of_a_table() -> None:
    row = {"a": {"b": 3}, "c_at": None, "d": [1, 2], "e": {"f": "g"}, "h": []}
    assert [cell(row, name) for name in ("a.b", "c_at", "d", "e", "h", "x.y")] == [
        "3",
        "",
        "1, 2",
        '{"f": "g"}',
        "",
        "",
    ]
    assert cell({"at": 1, "seen_at": 0}, "seen_at").startswith("19")
