"""How is an upload read? SHELL: multipart fields in any order, the file spooled to disk, limits enforced on the way."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from services.ingest.api.errors import ApiError, missing_parameter
from services.ingest.api.file_request import check_expires_after, check_filename, check_purpose

# Boundaries, headers and small fields around the file.
FORM_OVERHEAD_BYTES = 64 * 1024
# Read and thrown away after the limit, so that a client that is still sending gets to see the answer.
DRAIN_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Upload:
    """A file and what was said about it."""

    content: BinaryIO
    num_bytes: int
    filename: str
    purpose: str
    expires_after_s: int | None


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an Upload."""

    content: BinaryIO
    num_bytes: int


class _TooLarge(Exception):
    pass


@asynccontextmanager
async def read_upload(request: Request, file_bytes_max: int, batch_file_bytes_max: int) -> AsyncIterator[Upload]:
    """The upload of a create-file call; raises ApiError. Temporary files are gone when the block ends."""
    async with _read_form(request, file_bytes_max) as form:
        file, purpose = _file(form, "file"), form.get("purpose")
        if not isinstance(purpose, str):
            raise missing_parameter("purpose")
        check_purpose(purpose)
        num_bytes = file.size or 0
        if num_bytes > (batch_file_bytes_max if purpose == "batch" else file_bytes_max):
            raise ApiError(400, "File is too large.")
        filename = check_filename(file.filename or "upload", purpose, "file")
        yield Upload(file.file, num_bytes, filename, purpose, _expires_after_s(form))


@asynccontextmanager
async def read_part(request: Request, part_bytes_max: int) -> AsyncIterator[Part]:
    """The part of an add-part call; raises ApiError. Temporary files are gone when the block ends."""
    async with _read_form(request, part_bytes_max) as form:
        data = _file(form, "data")
        if (data.size or 0) > part_bytes_max:
            raise ApiError(400, f"Part is too large: it may have at most {part_bytes_max} bytes.", param="data")
        yield Part(data.file, data.size or 0)


@asynccontextmanager
async def _read_form(request: Request, file_bytes_max: int) -> AsyncIterator[FormData]:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise ApiError(400, "The content type of a file upload must be multipart/form-data.")
    body = request.stream()
    try:
        parser = MultiPartParser(request.headers, _limited(body, file_bytes_max + FORM_OVERHEAD_BYTES), max_files=1)
        form = await parser.parse()
    except _TooLarge:
        await _drain(body)
        raise ApiError(400, "File is too large.") from None
    except (MultiPartException, KeyError, ValueError) as error:
        raise ApiError(400, f"The multipart body cannot be read: {error}.") from None
    try:
        yield form
    finally:
        await form.close()


def _file(form: FormData, name: str) -> UploadFile:
    file = form.get(name)
    if not isinstance(file, UploadFile):
        raise missing_parameter(name)
    return file


def _expires_after_s(form: FormData) -> int | None:
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    number = int(seconds) if isinstance(seconds, str) and seconds.isdecimal() and len(seconds) < 20 else seconds
    return check_expires_after("expires_after", anchor, number)


async def _limited(body: AsyncIterator[bytes], max_bytes: int) -> AsyncGenerator[bytes, None]:
    num_bytes = 0
    async for chunk in body:
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise _TooLarge
        yield chunk


async def _drain(body: AsyncIterator[bytes]) -> None:
    num_bytes = 0
    async for chunk in body:
        num_bytes += len(chunk)
        if num_bytes > DRAIN_BYTES_MAX:
            return
