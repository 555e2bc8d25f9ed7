"""What is noted of lines is taken once, in order, and is bounded."""

import gc
import threading
import weakref

import pytest

from shared import noted_lines
from shared.noted_lines import NotedLines
from shared.record_spans import NotedLine


class Line(NotedLine, frozen=True, weakref=True):
    """Of two fields."""

    number: int
    text: str = "é"
    body: bytes | None = None


def numbers(noted: NotedLines[Line]) -> list[int]:
    return [line.number for line in noted.take()]


def test_all_are_taken_once_in_order() -> None:
    noted = NotedLines(Line)
    lines = [Line(n, "x" * (n * n), b"\xff" * n if n % 2 else None) for n in range(300)]
    noted.add(lines[:7])
    noted.add(lines[7:])
    assert list(noted.take()) == lines
    assert not numbers(noted)
    noted.add([Line(1)])
    assert numbers(noted) == [1]


def test_nothing_of_them_is_kept() -> None:
    line = Line(1, body=b"x" * 1000)
    known = weakref.ref(line)
    noted = NotedLines(Line)
    noted.add([line])
    del line
    gc.collect()
    assert known() is None and 1000 < noted.num_bytes < 1100


def test_more_than_there_is_room_for_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noted_lines, "NOTED_BYTES_MAX", 1000)
    noted = NotedLines(Line)
    noted.add(Line(n, "x" * 400) for n in range(5))
    noted.add([Line(5)])
    assert numbers(noted) == [0, 1, 5]
    noted.add([Line(6, "x" * 1000), Line(7)])
    assert numbers(noted) == [7]


def test_one_that_cannot_be_written_harms_no_other() -> None:
    noted = NotedLines(Line)
    noted.add([Line(1), Line(2, body=b"x", text="half of a pair: \ud800"), Line(3)])
    assert numbers(noted) == [1, 3]


def test_lines_of_several_threads_do_not_mix() -> None:
    noted, found = NotedLines(Line), list[Line]()

    def add(first: int) -> None:
        for number in range(first, first + 1000):
            noted.add([Line(number, "x" * (number % 50))])

    threads = [threading.Thread(target=add, args=(first,)) for first in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found += noted.take()
    found += noted.take()
    assert sorted(line.number for line in found) == list(range(3000))
    assert all(len(line.text) == line.number % 50 for line in found)
