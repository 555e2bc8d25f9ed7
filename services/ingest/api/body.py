"""How is a JSON body read? SHELL: whole, but never more than a megabyte of it."""

from fastapi import Request

from services.ingest.api.errors import ApiError

BODY_BYTES_MAX = 1024 * 1024


async def read_body(request: Request) -> bytes:
    """The body; raises ApiError 413 when it is too large."""
    chunks, num_bytes = [], 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > BODY_BYTES_MAX:
            raise ApiError(413, f"The body of your request is larger than {BODY_BYTES_MAX} bytes.")
        chunks.append(chunk)
    return b"".join(chunks)
