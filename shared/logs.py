"""How does a process write its log? structlog on standard output: JSON for machines, text for people. SHELL.

What libraries say goes the same way, so that a log has one form. Messages are constant, and what varies is a field.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from opentelemetry import trace

from shared.log_reader import Record
from shared.messages import BatchCreated
from shared.settings import TelemetrySettings
from shared.trace_context import traceparent_in

Event = MutableMapping[str, Any]
# Of a header, which a stranger may have written.
SHOWN_BYTES = 200
# Headers of our records and of intake's, and the fields that they are.
_NAMES = {
    "batch": "batch_id",
    "line": "line",
    "request": "request_id",
    "request-id": "request_id",
    "batch-id": "batch_name",
    "tenant": "tenant",
}


def of_batch(created: BatchCreated) -> dict[str, str]:
    """Fields of a line about a batch: its id, and its trace."""
    fields = {"batch_id": created.id}
    return fields | ({"trace_id": created.traceparent.split("-")[1]} if created.traceparent else {})


def of_record(record: Record) -> dict[str, str | int]:
    """Fields of a line about a record, also one that cannot be read: where it is, and whose its headers say it is."""
    fields: dict[str, str | int] = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    for name, value in record.headers or ():
        if name in _NAMES:
            fields[_NAMES[name]] = (value or b"")[:SHOWN_BYTES].decode(errors="replace")
    if traceparent := traceparent_in(record.headers):
        fields["trace_id"] = traceparent[3:35]
    return fields


def with_trace(_logger: object, _method: str, event: Event) -> Event:
    """A structlog processor: inside a span, which trace a line of the log belongs to."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event.setdefault("trace_id", f"{context.trace_id:032x}")
        event.setdefault("span_id", f"{context.span_id:016x}")
    return event


def set_up_logging(settings: TelemetrySettings, service: str) -> None:
    """Write from here on; `service` is a field of each line. What libraries say begins at a warning."""
    level = getattr(logging, settings.log_level.upper())

    def with_service(_logger: object, _method: str, event: Event) -> Event:
        event["service"] = service
        return event

    is_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stdout.isatty())
    last: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    if is_text:  # which shows exceptions by itself; plain, because values of variables may be a request's text
        last = [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
    shared: list[Any] = [
        structlog.processors.add_log_level,
        with_service,
        with_trace,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
