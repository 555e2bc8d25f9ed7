"""How are a file's bytes sent? SHELL: streamed from the store, whole or one range of them."""

from collections.abc import AsyncIterator
from urllib.parse import quote

from fastapi import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from services.ingest.api.byte_range import Unsatisfiable, parse_range
from services.ingest.api.errors import ApiError, not_found_file
from shared.errors import ObjectNotFound
from shared.messages import StoredFile
from shared.object_store import ObjectStore


async def file_response(request: Request, store: ObjectStore, file: StoredFile) -> Response:
    """200 with the whole file, 206 with a part, or 416; raises ApiError when the bytes are gone."""
    etag = f'"{file.id}"'  # a file never changes
    wanted = request.headers.get("range")
    if request.headers.get("if-range", etag) != etag:
        wanted = None
    try:
        part = parse_range(wanted, file.bytes)
    except Unsatisfiable:
        error = ApiError(416, f"The file has {file.bytes} bytes, none of them is in the range '{wanted}'.")
        return JSONResponse(error.envelope(), 416, {"content-range": f"bytes */{file.bytes}"})
    first, num_bytes = (part.first, part.num_bytes) if part else (0, file.bytes)
    chunks = _limited(store.stream(file.object_key, first), num_bytes)
    try:
        begin = await anext(chunks, b"")
    except ObjectNotFound:
        raise not_found_file(file.id) from None
    headers = {
        "content-disposition": disposition(file.filename),
        "content-length": str(num_bytes),
        "accept-ranges": "bytes",
        "etag": etag,
    }
    if part:
        headers["content-range"] = part.content_range
    return StreamingResponse(
        _chain(begin, chunks), 206 if part else 200, headers=headers, media_type="application/octet-stream"
    )


async def _limited(chunks: AsyncIterator[bytes], num_bytes: int) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield chunk[:num_bytes]
        num_bytes -= len(chunk)
        if num_bytes <= 0:
            return


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def disposition(filename: str) -> str:
    """`attachment` with the plain name when it is ASCII, with the encoded one beside it otherwise (RFC 6266)."""
    plain = filename.replace("\\", "_").replace('"', "_")
    plain = "".join(c if " " <= c <= "~" else "_" for c in plain)
    if plain == filename:
        return f'attachment; filename="{plain}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
