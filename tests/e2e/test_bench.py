"""The bench runs and says its figures; how fast is nothing that a test asserts."""

import json
import subprocess
import sys
from pathlib import Path

from cli.local_kafka import java_problem
from tests.conftest import skip_unexercised


def test_quick_bench_prints_a_table_and_json(tmp_path: Path) -> None:
    if problem := java_problem():
        skip_unexercised("bench", problem)
    written = tmp_path / "bench.json"
    command = [sys.executable, "-m", "tests.bench", "--quick", "--only", "echo,idle", "--json", str(written)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode == 0, done.stderr
    figures = {figure["name"]: figure for figure in json.loads(written.read_text())}
    hops = {name.strip() for name in figures if figures[name]["unit"] == "us/row"}
    assert hops == {"ingest: upload", "ingest: validation", "ingest: dispatch", "broker", "worker", "collector"}
    assert all(figures[name]["value"] > 0 for name in figures if figures[name]["unit"] in ("rows/s", "s"))
    for name in figures:
        assert name in done.stdout
