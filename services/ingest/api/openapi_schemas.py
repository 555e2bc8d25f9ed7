"""Which shapes does the API take and give? PURE: the components of the OpenAPI document (contract 2)."""

from typing import Any

from services.ingest.api.batch_request import (
    IDEMPOTENCY_KEY_MAX,
    METADATA_KEY_MAX,
    METADATA_PAIRS_MAX,
    METADATA_VALUE_MAX,
    PRIORITY_MAX,
    PRIORITY_MIN,
)
from services.ingest.api.file_request import EXPIRES_AFTER_MAX_S, EXPIRES_AFTER_MIN_S, PURPOSES
from services.ingest.story import PARTS
from shared.batch_state import BatchStatus

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
BOOLEAN: Schema = {"type": "boolean"}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
INTEGER_OR_NULL: Schema = {"type": ["integer", "null"]}
NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}


def ref(name: str) -> Schema:
    """A reference to one of the components."""
    return {"$ref": f"#/components/schemas/{name}"}


def closed_object(members: dict[str, Schema], optional: tuple[str, ...] = ()) -> Schema:
    """An object that has all of these members and no others."""
    required = [name for name in members if name not in optional]
    return {"type": "object", "properties": members, "required": required, "additionalProperties": False}


def list_of(name: str) -> Schema:
    """The list envelope (contract 2.3)."""
    return closed_object(
        {
            "object": {"const": "list"},
            "data": {"type": "array", "items": ref(name)},
            "first_id": TEXT_OR_NULL,
            "last_id": TEXT_OR_NULL,
            "has_more": BOOLEAN,
        }
    )


def or_null(schema: Schema) -> Schema:
    """This, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


_EXPIRES_AFTER = {
    "type": "object",
    "properties": {
        "anchor": {"const": "created_at"},
        "seconds": {"type": "integer", "minimum": EXPIRES_AFTER_MIN_S, "maximum": EXPIRES_AFTER_MAX_S},
    },
    "required": ["anchor", "seconds"],
}
_METADATA = {
    "type": "object",
    "maxProperties": METADATA_PAIRS_MAX,
    "propertyNames": {"maxLength": METADATA_KEY_MAX},
    "additionalProperties": {"type": "string", "maxLength": METADATA_VALUE_MAX},
}
_FILE = closed_object(
    {
        "object": {"const": "file"},
        "id": TEXT,
        "purpose": TEXT,
        "filename": TEXT,
        "bytes": INTEGER,
        "created_at": INTEGER,
        "expires_at": INTEGER_OR_NULL,
        "status": {"const": "processed"},
        "status_details": {"type": "null"},
    }
)
_BATCH_ERRORS = closed_object(
    {
        "object": {"const": "list"},
        "data": {
            "type": "array",
            "items": closed_object({"code": TEXT, "message": TEXT, "param": TEXT_OR_NULL, "line": INTEGER_OR_NULL}),
        },
    }
)
_USAGE = closed_object(
    {
        "input_tokens": INTEGER,
        "input_tokens_details": closed_object({"cached_tokens": INTEGER}),
        "output_tokens": INTEGER,
        "output_tokens_details": closed_object({"reasoning_tokens": INTEGER}),
        "total_tokens": INTEGER,
    }
)
_X_HEADRACE = closed_object(
    {
        "priority": INTEGER,
        "queue_position": INTEGER_OR_NULL,
        "dispatched": INTEGER,
        "lines_per_second": {"type": ["number", "null"]},
        "estimated_completion_at": INTEGER_OR_NULL,
        "expired": INTEGER,
        "cancelled": INTEGER,
        "top_errors": {"type": "array", "items": closed_object({"code": TEXT, "count": INTEGER})},
        "retry_of": TEXT_OR_NULL,
        "name": TEXT_OR_NULL,
        "part": INTEGER_OR_NULL,
        "received": INTEGER_OR_NULL,
        "declared": INTEGER_OR_NULL,
        "without_workers": {"type": "array", "items": TEXT},
    }
)
_STAMPS_AFTER = ("finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at")
_BATCH = closed_object(
    {
        "id": TEXT,
        "object": {"const": "batch"},
        "endpoint": TEXT,
        "model": TEXT_OR_NULL,
        "errors": or_null(ref("BatchErrors")),
        "input_file_id": TEXT,
        "completion_window": TEXT,
        "status": {"enum": [str(status) for status in BatchStatus]},
        "output_file_id": TEXT_OR_NULL,
        "error_file_id": TEXT_OR_NULL,
        "created_at": INTEGER,
        "in_progress_at": INTEGER_OR_NULL,
        "expires_at": INTEGER,
        **dict.fromkeys(_STAMPS_AFTER, INTEGER_OR_NULL),
        "request_counts": closed_object({"total": INTEGER, "completed": INTEGER, "failed": INTEGER}),
        "usage": ref("Usage"),
        "metadata": or_null(_METADATA),
        "x_headrace": ref("BatchExtension"),
    }
)
_UPLOAD = closed_object(
    {
        "id": TEXT,
        "object": {"const": "upload"},
        "bytes": INTEGER,
        "created_at": INTEGER,
        "filename": TEXT,
        "purpose": TEXT,
        "status": {"enum": ["pending", "completed", "cancelled", "expired"]},
        "expires_at": INTEGER,
        "file": or_null(ref("File")),
    }
)

_WORKER = closed_object(
    {
        "id": TEXT,
        "object": {"const": "worker"},
        "state": {"enum": ["joining", "ready", "stopped", "silent"]},
        "alive": BOOLEAN,
        "models": {"type": "array", "items": TEXT},
        "endpoints": {"type": "array", "items": TEXT},
        "engine": TEXT,
        "version": TEXT,
        "started_at": INTEGER,
        "seen_at": INTEGER,
        "in_flight": INTEGER,
        "window": INTEGER,
        "partitions": {"type": "array", "items": INTEGER},
        "lines_per_second": NUMBER_OR_NULL,
        "input_tokens": INTEGER,
        "output_tokens": INTEGER,
        "running": INTEGER_OR_NULL,
        "waiting": INTEGER_OR_NULL,
        "kv_cache_usage": NUMBER_OR_NULL,
    }
)
_BATCH_LINE = closed_object(
    {
        "object": {"const": "batch.line"},
        "batch_id": TEXT,
        "custom_id": TEXT,
        "line": INTEGER,
        "status": {"enum": ["waiting", "dispatched", "completed", "failed", "not_run", "unknown"]},
        "error_code": TEXT_OR_NULL,
        "worker": TEXT_OR_NULL,
        "because": TEXT_OR_NULL,
        "attempt": INTEGER_OR_NULL,
        "tries": INTEGER_OR_NULL,
        "redelivered": {"type": ["boolean", "null"]},
        "trace_id": TEXT_OR_NULL,
        "trace_url": TEXT_OR_NULL,
        "steps": {
            "type": "array",
            "items": {"type": "object", "properties": {"step": TEXT, "at": NUMBER_OR_NULL}, "required": ["step", "at"]},
        },
        "seconds": closed_object(dict.fromkeys(PARTS, NUMBER_OR_NULL)),
    }
)

SCHEMAS: dict[str, Schema] = {
    "Error": {
        "type": "object",
        "properties": {
            "error": closed_object({"message": TEXT, "type": TEXT, "param": TEXT_OR_NULL, "code": TEXT_OR_NULL})
        },
        "required": ["error"],
    },
    "File": _FILE,
    "FileList": list_of("File"),
    "FileDeleted": closed_object({"id": TEXT, "object": {"const": "file"}, "deleted": {"const": True}}),
    "FileValidation": closed_object(
        {
            "object": {"const": "file.validation"},
            "file_id": TEXT,
            "endpoint": TEXT,
            "valid": BOOLEAN,
            "total": INTEGER,
            "model": TEXT_OR_NULL,
            "errors": or_null(ref("BatchErrors")),
        }
    ),
    "Upload": _UPLOAD,
    "UploadPart": closed_object(
        {"id": TEXT, "object": {"const": "upload.part"}, "created_at": INTEGER, "upload_id": TEXT}
    ),
    "Batch": _BATCH,
    "BatchList": list_of("Batch"),
    "BatchErrors": _BATCH_ERRORS,
    "BatchExtension": _X_HEADRACE,
    "Usage": _USAGE,
    "Model": closed_object({"id": TEXT, "object": {"const": "model"}, "created": INTEGER, "owned_by": TEXT}),
    "ModelList": closed_object({"object": {"const": "list"}, "data": {"type": "array", "items": ref("Model")}}),
    "Worker": _WORKER,
    "WorkerList": closed_object({"object": {"const": "list"}, "data": {"type": "array", "items": ref("Worker")}}),
    "BatchLine": _BATCH_LINE,
    "SchemaName": closed_object({"id": TEXT, "object": {"const": "schema"}}),
    "SchemaList": closed_object({"object": {"const": "list"}, "data": {"type": "array", "items": ref("SchemaName")}}),
    "CreateFile": {
        "type": "object",
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "purpose": {"enum": list(PURPOSES)},
            "expires_after[anchor]": {"const": "created_at"},
            "expires_after[seconds]": {"type": "string", "pattern": "^[0-9]{4,7}$"},
        },
        "required": ["file", "purpose"],
    },
    "ValidateFile": {"type": "object", "properties": {"endpoint": TEXT_OR_NULL}},
    "CreateUpload": {
        "type": "object",
        "properties": {
            "bytes": {"type": "integer", "minimum": 0},
            "filename": TEXT,
            "mime_type": TEXT,
            "purpose": {"enum": list(PURPOSES)},
            "expires_after": or_null(_EXPIRES_AFTER),
        },
        "required": ["bytes", "filename", "mime_type", "purpose"],
    },
    "AddPart": {
        "type": "object",
        "properties": {"data": {"type": "string", "format": "binary"}},
        "required": ["data"],
    },
    "CompleteUpload": {
        "type": "object",
        "properties": {"part_ids": {"type": "array", "items": TEXT}, "md5": TEXT_OR_NULL},
        "required": ["part_ids"],
    },
    "CreateBatch": {
        "type": "object",
        "properties": {
            "input_file_id": TEXT,
            "endpoint": TEXT,
            "completion_window": TEXT,
            "metadata": or_null(_METADATA),
            "output_expires_after": or_null(_EXPIRES_AFTER),
            "priority": or_null({"type": "integer", "minimum": PRIORITY_MIN, "maximum": PRIORITY_MAX}),
            "idempotency_key": or_null({"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_MAX}),
        },
        "required": ["input_file_id", "endpoint", "completion_window"],
    },
}
