"""How are single lines read out of local copies of segments? SHELL: block by block, because a system call a line costs
more than everything else that is done with the line."""

import os
from collections import OrderedDict
from typing import BinaryIO

BLOCK_BYTES = 128 * 1024
# Lines are asked for in input order and stand in log order: one place a partition that is read from, and some more.
BLOCKS_MAX = 128


class ScratchSpans:
    """Local files by number, each with the position in its segment where it begins; 16 MiB of blocks at most."""

    def __init__(self) -> None:
        self._files: dict[int, tuple[BinaryIO, int]] = {}
        self._blocks: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def add(self, number: int, local: BinaryIO, first: int) -> None:
        """A local copy of a segment's bytes from `first` on."""
        self._files[number] = (local, first)

    def read(self, number: int, position: int, length: int) -> bytes:
        """The bytes of a line; fewer than `length` where the copy ends too early."""
        start = position - self._files[number][1]
        end = start + length
        first_block, last_block = start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        if first_block == last_block:
            base = first_block * BLOCK_BYTES
            return self._block(number, first_block)[start - base : end - base]
        blocks = b"".join(self._block(number, block) for block in range(first_block, last_block + 1))
        base = first_block * BLOCK_BYTES
        return blocks[start - base : end - base]

    def _block(self, number: int, block: int) -> bytes:
        key = number, block
        found = self._blocks.get(key)
        if found is not None:
            self._blocks.move_to_end(key)
            return found
        data = os.pread(self._files[number][0].fileno(), BLOCK_BYTES, block * BLOCK_BYTES)
        self._blocks[key] = data
        if len(self._blocks) > BLOCKS_MAX:
            self._blocks.popitem(last=False)
        return data
