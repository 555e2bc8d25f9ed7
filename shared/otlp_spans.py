"""What does a span about a record look like on the wire? OTLP's protobuf, `opentelemetry/proto/trace/v1` 1.10.

The client builds an object for each attribute and value before it writes them, 60 us a span between other work, and
most of what tracing cost. A message is its fields one after the other, so these are joined as bytes.
"""

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from shared.record_spans import EndedSpan
from shared.trace_context import ids_in, span_id_in

_BYTE = [bytes([number]) for number in range(128)]
_TIMES = struct.Struct("<cQcQ")
_DOUBLE = struct.Struct("<d")
# `SpanFlags`: whether the parent, or what is linked to, is remote is known; and that it is.
_LOCAL, _REMOTE = struct.pack("<I", 0x100), struct.pack("<I", 0x300)
_NO_STATUS, _ERROR = b"", b"\x18\x02"
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


class SpanEncoder:
    """Writes spans of one process and scope."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._resource = _field(b"\x0a", _attributes(b"\x0a", resource.attributes.items()))
        self._resource_schema = _text(b"\x1a", resource.schema_url)
        self._scope = _field(b"\x0a", _text(b"\x0a", scope.name) + _text(b"\x12", scope.version or ""))
        self._scope_schema = _text(b"\x1a", scope.schema_url or "")

    def request(self, spans: Sequence[EndedSpan]) -> bytes:
        """An `ExportTraceServiceRequest`; two of them, one after the other, are one with the spans of both."""
        if not spans:
            return b""
        of_scope = self._scope + b"".join(_field(b"\x12", _span(span)) for span in spans) + self._scope_schema
        return _field(b"\x0a", self._resource + _field(b"\x12", of_scope) + self._resource_schema)


def _span(ended: EndedSpan) -> bytes:
    span, attributes = ended.span, ended.span.attributes() | ended.attributes
    if ended.error is not None:
        attributes["error.type"] = ended.error
    return b"".join(
        (
            b"\x0a\x10",
            bytes.fromhex(span.trace_id),
            b"\x12\x08",
            bytes.fromhex(span.span_id),
            b"" if span.parent is None else b"\x22\x08" + bytes.fromhex(span_id_in(span.parent)),
            _name(b"\x2a", span.name),
            b"\x30",
            _BYTE[span.kind.value + 1],  # the wire's kinds begin with one that is not specified
            _TIMES.pack(b"\x39", span.began_ns, b"\x41", ended.ended_ns),
            _attributes(b"\x4a", attributes.items()),
            *[_link(ids) for link in span.links if (ids := ids_in(link))],
            _field(b"\x7a", _NO_STATUS if ended.error is None else _ERROR),
            b"\x85\x01",
            _LOCAL if span.parent is None else _REMOTE,
        )
    )


def _link(ids: tuple[bytes, bytes]) -> bytes:
    trace_id, span_id = ids
    return b"\x6a\x21\x0a\x10" + trace_id + b"\x12\x08" + span_id + b"\x35" + _REMOTE


def _attributes(tag: bytes, pairs: Iterable[tuple[str, object]]) -> bytes:
    return b"".join(
        [_known(tag, key, value) if type(value) is str else _attribute(tag, key, value) for key, value in pairs]
    )


def _attribute(tag: bytes, key: str, value: object) -> bytes:
    return _field(tag, _key(key) + _field(b"\x12", _value(value)))


# Of the texts of a span all but its custom id are those of many.
_known = lru_cache(maxsize=1_000)(_attribute)


@lru_cache(maxsize=1_000)
def _key(key: str) -> bytes:
    return _field(b"\x0a", key.encode())


def _value(value: object) -> bytes:
    """An `AnyValue`; what it has no field for becomes text."""
    match value:
        case str():
            return _field(b"\x0a", value.encode(errors="replace"))
        case bool():
            return b"\x10" + _BYTE[value]
        case int() if _INT_MIN <= value <= _INT_MAX:
            return b"\x18" + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
        case float():
            return b"\x21" + _DOUBLE.pack(value)
        case list() | tuple():
            return _field(b"\x2a", b"".join([_field(b"\x0a", _value(each)) for each in value]))
        case _:
            return _value(str(value))


def _text(tag: bytes, text: str) -> bytes:
    """A field of text; an empty one is left out, as its default."""
    return _field(tag, text.encode(errors="replace")) if text else b""


# Most spans have one of a few names.
_name = lru_cache(maxsize=1_000)(_text)


def _field(tag: bytes, value: bytes) -> bytes:
    """A field that has a length."""
    length = len(value)
    return tag + (_BYTE[length] if length < 128 else _varint(length)) + value


def _varint(number: int) -> bytes:
    """A number from 0 in groups of seven bits, the lowest first; all but the last are marked."""
    if number < 128:
        return _BYTE[number]
    groups = bytearray()
    while number >= 128:
        groups.append(number & 127 | 128)
        number >>= 7
    groups.append(number)
    return bytes(groups)
