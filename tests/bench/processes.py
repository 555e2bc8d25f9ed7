"""What do the processes of a stack use? CPU, resident memory and bytes of files, from /proc."""

import os
from pathlib import Path

from tests.e2e.stack import Stack

_TICKS = os.sysconf("SC_CLK_TCK")
Usage = dict[str, float]


def pids(stack: Stack) -> dict[str, int]:
    """Process id of each child, by name."""
    return {path.stem: int(path.read_text()) for path in (stack.data / "run").glob("*.pid")}


def cpu_seconds(stack: Stack) -> Usage:
    """CPU of each child and of its own children so far, by name."""
    return {name: cpu_of_family(pid) for name, pid in pids(stack).items()}


def own_cpu_seconds(stack: Stack) -> Usage:
    """CPU of each child so far, by name, without its own children's."""
    return {name: _cpu_of(pid) for name, pid in pids(stack).items()}


def cpu_of_family(pid: int) -> float:
    """CPU of a process and of its children so far, in seconds."""
    return sum(map(_cpu_of, _family(pid)))


def resident_mb(stack: Stack) -> Usage:
    """Resident memory of each child now."""
    return {name: _status(pid, "VmRSS") / 1e3 for name, pid in pids(stack).items()}


def file_bytes(stack: Stack) -> dict[str, tuple[int, int]]:
    """Bytes that each child has read from and written to files so far."""
    found = {}
    for name, pid in pids(stack).items():
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        io = {key: int(value) for key, _, value in (line.partition(": ") for line in lines)}
        found[name] = io["rchar"], io["wchar"]
    return found


def minus(after: Usage, before: Usage) -> Usage:
    """The difference, name by name."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def _cpu_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(member for child in children for member in _family(int(child)))]


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise AssertionError(f"no {name}")
