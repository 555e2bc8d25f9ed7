"""Where does a line of a JSONL file begin and end? PURE: chunks of bytes in, numbered lines out.

LF or CRLF ends a line, the last one may lack it, a byte-order mark at the start is dropped, blank lines at the
end do not count. A line longer than the limit is reported by its number and its bytes are dropped as they come.
"""

from collections.abc import Iterator

import msgspec

_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"


class Line(msgspec.Struct, frozen=True):
    """A line without its ending. `number` is 0-based; it begins at byte `start`; `end` is the byte after its ending.

    `value` is None for a line over the limit.
    """

    number: int
    value: bytes | None
    end: int
    start: int = 0


class LineReader:
    """Splits a stream that may begin in the middle of a file, at the start of a line."""

    def __init__(self, max_line_bytes: int, first_number: int = 0, first_byte: int = 0) -> None:
        self._max = max_line_bytes
        self._number = first_number
        self._end = first_byte
        self._at_file_start = first_byte == 0
        self._parts: list[bytes] = []
        self._size = 0
        self._too_long = False
        self._blanks: list[Line] = []

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Lines that this chunk completes. Blank ones are held back until another line follows."""
        start = 0
        while (stop := chunk.find(b"\n", start)) >= 0:
            self._keep(chunk[start : stop + 1])
            yield from self._complete()
            start = stop + 1
        self._keep(chunk[start:])

    def finish(self) -> Iterator[Line]:
        """The last line, when the file does not end with a line ending."""
        if self._size:
            yield from self._complete()
        self._blanks.clear()

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._max + 2:  # the ending does not count
            self._too_long = True
            self._parts.clear()
        elif part:
            self._parts.append(part)

    def _complete(self) -> Iterator[Line]:
        raw, start = b"".join(self._parts), self._end
        if self._at_file_start:
            if raw.startswith(_BOM):
                raw, start = raw.removeprefix(_BOM), start + len(_BOM)
            self._at_file_start = False
        self._end += self._size
        value = raw.removesuffix(b"\n").removesuffix(b"\r")
        too_long = self._too_long or len(value) > self._max
        line = Line(self._number, None if too_long else value, self._end, start)
        self._number += 1
        self._parts, self._size, self._too_long = [], 0, False
        if not too_long and not value.strip(_BLANK):
            self._blanks.append(line)
            return
        yield from self._blanks
        self._blanks.clear()
        yield line
