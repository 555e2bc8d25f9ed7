"""How do files and Uploads look on the wire? PURE: records in, objects in the real service's key order (contract 2)."""

from typing import Any

from services.ingest.input_file import InputFile
from services.ingest.uploads import Upload
from shared.batch_state import errors_object
from shared.messages import StoredFile


def file_object(file: StoredFile) -> dict[str, Any]:
    """OpenAI's File object (contract 2.2)."""
    return {
        "object": "file",
        "id": file.id,
        "purpose": file.purpose,
        "filename": file.filename,
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "status": "processed",
        "status_details": None,
    }


def validation_object(file_id: str, endpoint: str, checked: InputFile) -> dict[str, Any]:
    """What a dry run found; `errors` is as in a batch that failed."""
    problems = checked.finish()
    return {
        "object": "file.validation",
        "file_id": file_id,
        "endpoint": endpoint,
        "valid": not problems,
        "total": checked.num_lines,
        "model": checked.model,
        "errors": errors_object(problems) if problems else None,
    }


def upload_object(upload: Upload, now_s: float) -> dict[str, Any]:
    """OpenAI's Upload object (contract 2.4)."""
    announced, file = upload.announced, upload.ended.file if upload.ended else None
    return {
        "id": announced.id,
        "object": "upload",
        "bytes": announced.bytes,
        "created_at": announced.created_at,
        "filename": announced.filename,
        "purpose": announced.purpose,
        "status": upload.status(now_s),
        "expires_at": announced.expires_at,
        "file": file_object(file) if file else None,
    }


def part_object(part_id: str, upload_id: str, created_at: int) -> dict[str, Any]:
    """OpenAI's part of an Upload (contract 2.4)."""
    return {"id": part_id, "object": "upload.part", "created_at": created_at, "upload_id": upload_id}
