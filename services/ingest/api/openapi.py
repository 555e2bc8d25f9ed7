"""What does `/openapi.json` say? PURE: every path that is served, in one table; a test compares it with the routes."""

from typing import Any

from services.ingest.api.batches import LIST_MAX as BATCHES_LIMIT_MAX
from services.ingest.api.files import LIST_MAX as FILES_LIMIT_MAX
from services.ingest.api.openapi_schemas import BOOLEAN, SCHEMAS, TEXT, Schema, ref

Operation = dict[str, Any]

_JSON, _FORM, _BYTES = "application/json", "multipart/form-data", "application/octet-stream"
_ERROR = {"description": "OpenAI's error envelope.", "content": {_JSON: {"schema": ref("Error")}}}


def _query(name: str, schema: Schema, text: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": text}


def _path(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": TEXT}


def _header(name: str, text: str) -> Schema:
    return {"name": name, "in": "header", "required": False, "schema": TEXT, "description": text}


def _limit(maximum: int) -> Schema:
    return _query("limit", {"type": "integer", "minimum": 0, "maximum": maximum}, "Items on a page.")


def _operation(
    name: str,
    summary: str,
    answer: str,
    *,
    parameters: tuple[Schema, ...] = (),
    body: str | None = None,
    body_type: str = _JSON,
    body_required: bool = True,
) -> Operation:
    """An operation that answers 200 with a component, or with the error envelope."""
    operation: Operation = {
        "operationId": name,
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            "200": {"description": summary, "content": {_JSON: {"schema": ref(answer)}}},
            "default": _ERROR,
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": body_required, "content": {body_type: {"schema": ref(body)}}}
    return operation


def _streamed(name: str, summary: str, media_type: str, parameters: tuple[Schema, ...], more: Schema) -> Operation:
    content = {media_type: {"schema": {"type": "string"}}}
    responses = {"200": {"description": summary, "content": content}, **more, "default": _ERROR}
    return {"operationId": name, "summary": summary, "parameters": list(parameters), "responses": responses}


_AFTER = _query("after", TEXT, "Id of the last item of the page before.")
_FILE, _UPLOAD, _BATCH = _path("file_id"), _path("upload_id"), _path("batch_id")
_IDEMPOTENCY = _header("Idempotency-Key", "Calls with the same key make one batch.")
_PART_OF_FILE = {"206": {"description": "A range of it.", "content": {_BYTES: {"schema": {"type": "string"}}}}}

PATHS: dict[str, dict[str, Operation]] = {
    "/files": {
        "get": _operation(
            "listFiles",
            "Files, newest first.",
            "FileList",
            parameters=(
                _query("purpose", TEXT, "Only files of this purpose."),
                _limit(FILES_LIMIT_MAX),
                _query("order", {"enum": ["asc", "desc"]}, "By creation time."),
                _AFTER,
            ),
        ),
        "post": _operation("createFile", "Upload a file.", "File", body="CreateFile", body_type=_FORM),
    },
    "/files/{file_id}": {
        "get": _operation("retrieveFile", "A file's object.", "File", parameters=(_FILE,)),
        "delete": _operation("deleteFile", "Delete a file.", "FileDeleted", parameters=(_FILE,)),
    },
    "/files/{file_id}/content": {
        "get": _streamed(
            "downloadFile",
            "A file's bytes.",
            _BYTES,
            (_FILE, _header("Range", "One range of bytes.")),
            _PART_OF_FILE,
        )
    },
    "/files/{file_id}/validate": {
        "post": _operation(
            "validateFile",
            "The errors that a batch of this file would get.",
            "FileValidation",
            parameters=(_FILE,),
            body="ValidateFile",
            body_required=False,
        )
    },
    "/uploads": {
        "post": _operation("createUpload", "Announce a file that comes in parts.", "Upload", body="CreateUpload")
    },
    "/uploads/{upload_id}/parts": {
        "post": _operation(
            "addUploadPart", "Add a part.", "UploadPart", parameters=(_UPLOAD,), body="AddPart", body_type=_FORM
        )
    },
    "/uploads/{upload_id}/complete": {
        "post": _operation(
            "completeUpload", "Make a file of the parts.", "Upload", parameters=(_UPLOAD,), body="CompleteUpload"
        )
    },
    "/uploads/{upload_id}/cancel": {
        "post": _operation("cancelUpload", "Give an Upload up.", "Upload", parameters=(_UPLOAD,))
    },
    "/batches": {
        "get": _operation(
            "listBatches", "Batches, newest first.", "BatchList", parameters=(_limit(BATCHES_LIMIT_MAX), _AFTER)
        ),
        "post": _operation("createBatch", "Create a batch.", "Batch", parameters=(_IDEMPOTENCY,), body="CreateBatch"),
    },
    "/batches/{batch_id}": {"get": _operation("retrieveBatch", "A batch as it is now.", "Batch", parameters=(_BATCH,))},
    "/batches/{batch_id}/cancel": {"post": _operation("cancelBatch", "Cancel a batch.", "Batch", parameters=(_BATCH,))},
    "/batches/{batch_id}/retry": {
        "post": _operation(
            "retryBatch",
            "A new batch of the lines that failed, expired or were cancelled.",
            "Batch",
            parameters=(_BATCH, _IDEMPOTENCY),
        )
    },
    "/batches/{batch_id}/results": {
        "get": _streamed(
            "streamResults",
            "Finished lines, until the batch ends.",
            "application/jsonl",
            (
                _BATCH,
                _query("after", TEXT, "Id of the last line that you have, or how many lines you have."),
                _query("follow", BOOLEAN, "false: only what is finished now."),
            ),
            {},
        )
    },
    "/batches/{batch_id}/lines/{custom_id}": {
        "get": _operation(
            "retrieveLine",
            "Where one line is, and where its time went.",
            "BatchLine",
            parameters=(_BATCH, _path("custom_id")),
        )
    },
    "/batches/{batch_id}/events": {
        "get": _streamed(
            "streamBatchEvents",
            "The batch object whenever it changes, until it has ended.",
            "text/event-stream",
            (_BATCH, _header("Last-Event-ID", "Id of the last event that you have.")),
            {},
        )
    },
    "/workers": {"get": _operation("listWorkers", "Workers, as their heartbeats say.", "WorkerList")},
    "/workers/events": {
        "get": _streamed(
            "streamWorkerEvents",
            "The list of workers whenever it changes, without an end.",
            "text/event-stream",
            (_header("Last-Event-ID", "Id of the last event that you have."),),
            {},
        )
    },
    "/models": {"get": _operation("listModels", "Models that batches may name.", "ModelList")},
    "/models/{model}": {"get": _operation("retrieveModel", "One model.", "Model", parameters=(_path("model"),))},
    "/schemas": {"get": _operation("listSchemas", "Schemas of what outsiders write to topics and read.", "SchemaList")},
    "/schemas/{name}": {
        "get": {
            "operationId": "retrieveSchema",
            "summary": "One schema.",
            "parameters": [_path("name")],
            "responses": {
                "200": {
                    "description": "A JSON Schema.",
                    "content": {"application/schema+json": {"schema": {"type": "object"}}},
                },
                "default": _ERROR,
            },
        }
    },
}


def document(version: str) -> dict[str, Any]:
    """The OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Headrace",
            "version": version,
            "description": "A self-hosted OpenAI Batch API. Every path is also served without `/v1`.",
        },
        "servers": [{"url": "/v1"}],
        "security": [{}, {"bearer": []}],
        "paths": PATHS,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }
