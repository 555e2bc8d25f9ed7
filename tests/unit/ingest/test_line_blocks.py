"""The order in which the lines of a file go out, and that any process can go on in the middle of it."""

from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from services.ingest import line_blocks
from services.ingest.line_blocks import BLOCK_LINES_MAX, PROMPT_BYTES, LineBlocks, prompted
from shared.jsonl import Line
from shared.messages import BatchDispatched

ENDPOINT = "/v1/chat/completions"


def lines_of(prompts: list[str]) -> list[Line]:
    lines, end = [], 0
    for number, prompt in enumerate(prompts):
        value = b'{"custom_id":"%d","body":{"messages":"%s"}}' % (number, prompt.encode())
        end += len(value) + 1
        lines.append(Line(number, value, end))
    return lines


async def from_cursor(lines: list[Line], cursor: BatchDispatched) -> AsyncIterator[Line]:
    for line in lines[cursor.next_line :]:
        yield line


def blocks(lines: list[Line], cursor: BatchDispatched, *, together: bool = True) -> LineBlocks:
    return LineBlocks(from_cursor(lines, cursor), cursor, ENDPOINT, like_lines_together=together)


async def take(source: LineBlocks, num: int) -> list[int]:
    """The numbers of the next lines."""
    taken: list[int] = []
    while len(taken) < num and (found := await source.peek()) is not None:
        taken.append(found.line.number)
        source.advance()
    return taken


async def test_like_prompts_go_out_next_to_each_other() -> None:
    lines = lines_of(["red", "blue", "red", "green", "blue", "red"])

    assert await take(blocks(lines, BatchDispatched()), 9) == [0, 2, 5, 1, 4, 3]
    assert await take(blocks(lines, BatchDispatched(), together=False), 9) == [0, 1, 2, 3, 4, 5]


async def test_among_like_prompts_those_that_are_more_so() -> None:
    common = "same words " * 50
    lines = lines_of([common + end for end in ("red", "blue", "red", "blue")] + ["other", common + "red"])

    assert await take(blocks(lines, BatchDispatched()), 9) == [0, 2, 5, 1, 3, 4]


async def test_lines_of_another_block_stay_behind() -> None:
    lines = lines_of(["b"] * BLOCK_LINES_MAX + ["a"])

    assert await take(blocks(lines, BatchDispatched()), 2_000) == [*range(BLOCK_LINES_MAX), BLOCK_LINES_MAX]


def test_prompt_is_what_stands_behind_its_member() -> None:
    value = b'{"custom_id": "1", "body": {"model": "m", "messages": [{"role": "system", "content": "Be brief'

    assert prompted(Line(0, value, 1), ENDPOINT).prompt.startswith(b'"messages": [{"role": "system"')
    assert len(prompted(Line(0, value + b"x" * 9_000, 1), ENDPOINT).prompt) == PROMPT_BYTES
    assert prompted(Line(0, value, 1), "/v1/completions").prompt == b""
    assert prompted(Line(0, value, 1), "/v1/unheard-of").prompt == b""


@given(st.lists(st.sampled_from("abcd"), max_size=40), st.lists(st.integers(1, 9), max_size=20), st.data())
async def test_each_line_goes_out_once_wherever_a_successor_goes_on(
    prompts: list[str], takes: list[int], data: st.DataObject
) -> None:
    lines, cursor, taken = lines_of(prompts), BatchDispatched(total=len(prompts)), list[int]()
    for num in takes:
        line_blocks.BLOCK_LINES_MAX = data.draw(st.integers(1, 12))  # a successor's may be another
        source = blocks(lines, cursor, together=data.draw(st.booleans()))
        taken += await take(source, num)
        cursor = source.cursor({})
        assert cursor.num_dispatched == len(taken)
        assert [n for n in range(len(prompts)) if cursor.is_dispatched(n)] == sorted(taken)
        assert cursor.dispatched_end == max(taken, default=-1) + 1
        if cursor.next_line:
            assert cursor.next_byte == lines[cursor.next_line - 1].end
    line_blocks.BLOCK_LINES_MAX = BLOCK_LINES_MAX
    taken += await take(blocks(lines, cursor), 100)

    assert sorted(taken) == list(range(len(prompts)))


async def test_block_of_which_all_went_out_is_left() -> None:
    lines = lines_of(["a"] * 4)
    cursor = BatchDispatched(total=4, ahead=b"\x03")
    line_blocks.BLOCK_LINES_MAX = 2

    assert await take(blocks(lines, cursor), 9) == [2, 3]
    line_blocks.BLOCK_LINES_MAX = BLOCK_LINES_MAX
