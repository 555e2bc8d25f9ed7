"""Lines come out of the blocks byte for byte, whatever block they begin and end in."""

import io
import random
from pathlib import Path

import pytest

from services.collector import scratch_spans
from services.collector.scratch_spans import ScratchSpans


@pytest.mark.parametrize("blocks_max", [1, 2, 100])
def test_every_line_comes_out_as_it_went_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks_max: int) -> None:
    monkeypatch.setattr(scratch_spans, "BLOCK_BYTES", 16)
    monkeypatch.setattr(scratch_spans, "BLOCKS_MAX", blocks_max)
    rng, spans, lines = random.Random(7), ScratchSpans(), list[tuple[int, int, bytes]]()
    files: list[io.BufferedRandom] = []
    for number in range(3):
        local = (tmp_path / str(number)).open("w+b")
        files.append(local)
        first = position = rng.randrange(1000)
        for _ in range(40):
            value = rng.randbytes(rng.choice([1, 5, 16, 17, 70]))
            lines.append((number, position, value))
            local.write(value)
            position += len(value)
        local.flush()
        spans.add(number, local, first)
    rng.shuffle(lines)

    assert all(spans.read(number, position, len(value)) == value for number, position, value in lines)
    number, position, value = max(lines[:1] + [line for line in lines if line[0] == 2], key=lambda line: line[:2])
    assert spans.read(number, position, len(value) + 9) == value, "the copy ends there"
    for local in files:
        local.close()
