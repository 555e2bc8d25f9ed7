"""Where are traced lines until their spans are made? In memory beside the heap, as bytes. SHELL.

Rows come and go in the order of the log, and leave the heap as they found it. What is kept of one in a hundred, while
its neighbours go, keeps them from it, and so does a buffer that grows: in a loop that reads, answers and packs rows as
a worker does, each takes 1 to 3 us more, of 15, traced or not. What is written down elsewhere costs it nothing.
"""

import mmap
import struct
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import msgspec
import structlog

from shared.record_spans import NotedLine

log = structlog.get_logger(__name__)

# Of what is noted until it is taken; more is dropped. Only what was ever used of it is memory.
NOTED_BYTES_MAX = 64 * 1024 * 1024
# A longer body, which may have many megabytes, is not noted but read at once.
READ_LATER_BYTES_MAX = 64 * 1024

_Line = TypeVar("_Line", bound=NotedLine)
_encoder = msgspec.msgpack.Encoder()
_LENGTH = struct.Struct("<I")


class _Arena:
    """A piece of memory that is written from its beginning on."""

    def __init__(self, num_bytes: int) -> None:
        self._memory = mmap.mmap(-1, num_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.num_bytes = 0

    def write(self, text: bytes) -> bool:
        """Whether there was room."""
        begin, end = self.num_bytes + _LENGTH.size, self.num_bytes + _LENGTH.size + len(text)
        if end > len(self._memory):
            return False
        _LENGTH.pack_into(self._memory, self.num_bytes, len(text))
        self._memory[begin:end] = text
        self.num_bytes = end
        return True

    def read(self) -> Iterator[memoryview]:
        """All texts, each to be read before the next one is asked for."""
        with memoryview(self._memory) as memory:
            begin = 0
            while begin < self.num_bytes:
                (length,) = _LENGTH.unpack_from(memory, begin)
                begin += _LENGTH.size
                with memory[begin : begin + length] as text:
                    yield text
                begin += length


class NotedLines(Generic[_Line]):
    """Lines of one kind that are noted by any thread, and taken by one."""

    def __init__(self, kind: type[_Line]) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._lock = threading.Lock()
        self._written, self._empty = _Arena(NOTED_BYTES_MAX), _Arena(NOTED_BYTES_MAX)
        self._num_dropped = 0

    @property
    def num_bytes(self) -> int:
        """Of all that are noted."""
        return self._written.num_bytes

    def add(self, lines: Iterable[_Line]) -> None:
        """Note them."""
        with self._lock:
            for line in lines:
                try:
                    self._num_dropped += not self._written.write(_encoder.encode(line))
                except Exception:  # of one line; whoever works on the others goes on
                    log.exception("line not noted")

    def take(self) -> Iterator[_Line]:
        """All that are noted, each read when it is asked for; nobody else may take any before the last one."""
        with self._lock:
            written = self._written
            self._written, self._empty = self._empty, written
            num_dropped, self._num_dropped = self._num_dropped, 0
        if num_dropped:
            log.warning("traced lines dropped", num_lines=num_dropped, bytes_max=NOTED_BYTES_MAX)
        try:
            for text in written.read():
                yield self._decoder.decode(text)
        finally:
            written.num_bytes = 0
