"""How are the lines of an input file read, from any point on? SHELL: a bounded read-ahead over the object store."""

from collections.abc import AsyncIterator

import msgspec

from shared.claim_check import REQUEST_BYTES_MAX
from shared.jsonl import Line, LineReader
from shared.object_store import ObjectStore, file_key


class _Url(msgspec.Struct):
    url: str


_url_decoder = msgspec.json.Decoder(_Url)


async def read_lines(store: ObjectStore, file_id: str, first_line: int = 0, first_byte: int = 0) -> AsyncIterator[Line]:
    """Lines from `first_line` on, which begins at `first_byte`."""
    reader = LineReader(REQUEST_BYTES_MAX, first_line, first_byte)
    async for chunk in store.stream(file_key(file_id), first_byte):
        for line in reader.feed(chunk):
            yield line
    for line in reader.finish():
        yield line


async def first_url(store: ObjectStore, file_id: str) -> str:
    """The `url` of the first line, or the empty string when it has none; raises ObjectNotFound."""
    async for line in read_lines(store, file_id):
        try:
            return _url_decoder.decode(line.value or b"").url
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return ""
    return ""
