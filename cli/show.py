"""How is something shown? Tables for people, JSON for programs; nothing but the answer goes to standard output."""

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.table import Table


class Output(StrEnum):
    """Forms of an answer."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


def show_list(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], output: Output) -> None:
    """Objects, one in a row; `columns` of a table may name members of members with dots."""
    found = list(rows)
    match output:
        case Output.JSON:
            print(json.dumps(found, indent=2, ensure_ascii=False))
        case Output.JSONL:
            for row in found:
                print(json.dumps(row, ensure_ascii=False))
        case Output.TABLE:
            table = Table(*[name.rpartition(".")[2] for name in columns], box=None, pad_edge=False, show_edge=False)
            for row in found:
                table.add_row(*[cell(row, name) for name in columns])
            _console().print(table)


def show_one(value: Mapping[str, Any], names: Sequence[str], output: Output) -> None:
    """One object; as a table a line for each of `names` that it has."""
    if output is not Output.TABLE:
        print(json.dumps(value, indent=2 if output is Output.JSON else None, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False, show_header=False, show_edge=False)
    for name in names:
        if text := cell(value, name):
            table.add_row(name.rpartition(".")[2], text)
    _console().print(table)


def cell(row: Mapping[str, Any], name: str) -> str:
    """A member as text; times as such, and nothing for null."""
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is None or value in ([], {}):
        return ""
    if name.endswith("_at"):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def tell(text: str) -> None:
    """Say something that is not the answer."""
    print(text, file=sys.stderr, flush=True)


def _console() -> Console:
    """As wide as it takes where nobody looks: a pipe cuts nothing off."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)
