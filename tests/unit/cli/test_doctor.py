"""What `headrace doctor` makes of what it hears."""

import time
from email.utils import formatdate
from typing import Any

from cli.doctor import clock, fleet
from cli.show import cell


def worker(name: str, state: str = "ready", version: str = "1.0") -> dict[str, Any]:
    return {"id": name, "state": state, "alive": state == "ready", "version": version}


def test_clock_that_is_off_is_told() -> None:
    now_s = time.time()
    assert clock(formatdate(now_s), now_s).ok
    assert not clock(formatdate(now_s - 60), now_s).ok
    assert not clock("", now_s).ok


def test_fleet_that_is_silent_empty_or_mixed_is_told() -> None:
    assert [f.ok for f in fleet([worker("a"), worker("b")], "1.0")] == [True, True]
    assert [f.ok for f in fleet([worker("a"), worker("b", "silent")], "1.0")] == [False, True]
    assert [f.ok for f in fleet([], "1.0")] == [False, True]
    assert [f.ok for f in fleet([worker("a", version="0.9")], "1.0")] == [True, False]


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
