"""In which order do the lines of a file go out? SHELL: reads one block ahead; the decision, `in_order`, is pure.

Lines go out block by block, and like prompts next to each other within a block. A worker whose KV cache is too small
for all prefixes of a file computes each of them again and again when lines come as they were written. The cursor says
with one bit a line which of a block went out, so that any process can go on in the middle of one.
"""

import itertools
from collections.abc import AsyncIterator

import msgspec

from services.ingest.placement import PREFIX_BYTES
from shared.jsonl import Line
from shared.messages import BatchDispatched

# A block ends with the line that reaches one of these.
BLOCK_LINES_MAX, BLOCK_BYTES_MAX = 1_024, 2 * 1024**2
# Prompts are alike that begin with the same so many bytes, and more so with more.
ALIKE_BYTES = (PREFIX_BYTES, 2_048)
PROMPT_BYTES = ALIKE_BYTES[-1]

# The member of the body that holds the prompt, by endpoint.
_PROMPT_MEMBERS = {
    "/v1/chat/completions": b'"messages"',
    "/v1/completions": b'"prompt"',
    "/v1/embeddings": b'"input"',
    "/v1/responses": b'"input"',
}


class PromptedLine(msgspec.Struct, frozen=True):
    """A line, and what its prompt begins with: bytes of the line from the prompt's member on. Nothing is parsed."""

    line: Line
    prompt: bytes


def prompted(line: Line, endpoint: str) -> PromptedLine:
    """Find a line's prompt; it is empty where it cannot be found."""
    assert line.value is not None, "validation refuses lines over the limit"
    member = _PROMPT_MEMBERS.get(endpoint)
    start = line.value.find(member) if member else -1
    return PromptedLine(line, line.value[start : start + PROMPT_BYTES] if start >= 0 else b"")


def in_order(block: list[PromptedLine]) -> list[PromptedLine]:
    """Each line behind the first one of its like; as they were written where no two are alike."""
    firsts: dict[bytes, int] = {}

    def place(taken: PromptedLine) -> tuple[int, ...]:
        number = taken.line.number
        return *(firsts.setdefault(taken.prompt[:size], number) for size in ALIKE_BYTES), number

    return sorted(block, key=place)


class LineBlocks:
    """The lines of one batch from its cursor on. Memory: one block."""

    def __init__(
        self, lines: AsyncIterator[Line], cursor: BatchDispatched, endpoint: str, *, like_lines_together: bool
    ) -> None:
        """`lines` begins at the cursor's `next_line`."""
        self._lines = lines
        self._cursor = cursor
        self._endpoint = endpoint
        self._like_lines_together = like_lines_together
        # Lines of the block that stay, in reverse; which went out, by bits; and where the block ends.
        self._waiting: list[PromptedLine] = []
        self._ahead = int.from_bytes(cursor.ahead, "little")
        self._next_line, self._next_byte = cursor.next_line, cursor.next_byte
        self._end = (self._next_line, self._next_byte)

    async def peek(self) -> PromptedLine | None:
        """The next line to go out, or None at the end of the file; raises what reading raises."""
        while not self._waiting and await self._read_block():
            pass
        return self._waiting[-1] if self._waiting else None

    def advance(self) -> None:
        """The line that was looked at goes out."""
        self._ahead |= 1 << (self._waiting.pop().line.number - self._next_line)
        if not self._waiting:
            self._leave_block()

    def cursor(self, highest_offsets: dict[str, int]) -> BatchDispatched:
        """Where to go on once all that went out is acknowledged."""
        ahead = self._ahead.to_bytes((self._ahead.bit_length() + 7) // 8, "little")
        self._cursor = msgspec.structs.replace(
            self._cursor,
            next_line=self._next_line,
            next_byte=self._next_byte,
            ahead=ahead,
            highest_offsets=highest_offsets,
        )
        return self._cursor

    def _leave_block(self) -> None:
        (self._next_line, self._next_byte), self._ahead = self._end, 0

    async def _read_block(self) -> bool:
        """As many lines as fit, and all that went out; False at the end of the file."""
        went_out, size, block = self._ahead.bit_length(), 0, list[PromptedLine]()
        for number in itertools.count():
            if number >= went_out and (number >= BLOCK_LINES_MAX or size >= BLOCK_BYTES_MAX):
                break
            line = await anext(self._lines, None)
            if line is None:
                break
            self._end = (line.number + 1, line.end)
            size += len(line.value or b"")
            if not self._ahead >> number & 1:
                block.append(prompted(line, self._endpoint))
        self._waiting = (in_order(block) if self._like_lines_together else block)[::-1]
        is_new = self._end[0] > self._next_line
        if is_new and not block:
            self._leave_block()
        return is_new
