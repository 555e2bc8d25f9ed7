"""Lines that come one by one: a chain that two writers cannot both write, and that ends once."""

import pytest

from services.ingest.line_stream import Chunk, LineStream, StreamEnd
from shared.errors import ObjectExists
from tests.fakes import MemoryObjectStore

START = Chunk(0, 0)


def stream() -> LineStream:
    return LineStream(MemoryObjectStore(), "batch_1")


async def read(lines: LineStream, first_line: int = 0, first_byte: int = 0) -> list[tuple[int, bytes | None]]:
    return [(line.number, line.value) async for line in lines.lines(first_line, first_byte)]


async def test_lines_are_read_from_any_one_on() -> None:
    lines = stream()
    at = await lines.append(START, [b"a", b"bb"])
    at = await lines.append(at, [b"ccc"])
    await lines.append(at, [b"d", b"e"])

    assert await read(lines) == [(0, b"a"), (1, b"bb"), (2, b"ccc"), (3, b"d"), (4, b"e")]
    assert await read(lines, 1, 2) == [(1, b"bb"), (2, b"ccc"), (3, b"d"), (4, b"e")]
    assert await read(lines, 2, 5) == [(2, b"ccc"), (3, b"d"), (4, b"e")]
    assert await read(lines, 4, 11) == [(4, b"e")]
    assert await read(lines, 5, 13) == []
    assert await lines.end() == StreamEnd(5, 13, is_sealed=False)


async def test_reader_that_came_to_the_end_goes_on_there() -> None:
    lines = stream()
    at = await lines.append(START, [b"a"])
    assert await read(lines) == [(0, b"a")]
    await lines.append(at, [b"b"])

    assert await read(lines, 1, 2) == [(1, b"b")]


async def test_two_writers_cannot_both_go_on() -> None:
    lines = stream()
    at = await lines.append(START, [b"a"])
    await lines.append(at, [b"b"])

    with pytest.raises(ObjectExists):
        await lines.append(at, [b"other"])


async def test_end_is_decided_once_and_nothing_comes_behind_it() -> None:
    lines = stream()
    at = await lines.append(START, [b"a", b"b"])

    assert await lines.seal() == StreamEnd(2, 4, is_sealed=True)
    with pytest.raises(ObjectExists):
        await lines.append(at, [b"late"])
    assert await lines.seal() == await lines.end() == StreamEnd(2, 4, is_sealed=True)
    assert await read(lines) == [(0, b"a"), (1, b"b")]


async def test_chain_that_goes_on_while_it_is_sealed_is_sealed_behind_that() -> None:
    store = MemoryObjectStore()
    lines, create = LineStream(store, "batch_1"), store.create

    async def after_another_writer(key: str, data: object) -> None:
        store.create = create  # type: ignore[method-assign]
        await lines.append(START, [b"a"])
        await create(key, data)  # type: ignore[arg-type]

    store.create = after_another_writer  # type: ignore[method-assign]
    assert await lines.seal() == StreamEnd(1, 2, is_sealed=True)


@pytest.mark.parametrize("values", [[], [b"a", b"b"]])
async def test_sealed_chain_becomes_one_object(values: list[bytes]) -> None:
    store = MemoryObjectStore()
    lines, at = LineStream(store, "batch_1"), START
    for value in values:
        at = await lines.append(at, [value])
    await lines.seal()

    await lines.put_together("files/f")
    await lines.put_together("files/f")
    await lines.remove()

    assert store.objects.pop("files/f") == b"".join(value + b"\n" for value in values)
    assert list(store.objects.values()) == [b""], "its end stays"
