"""Spans wait in a queue with a limit, and all of them are exported once."""

import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from shared import span_queue
from shared.record_spans import EndedSpan, NotedLine, begin_span
from shared.span_queue import EXPORT_BYTES, SpanQueue


class Exports(SpanExporter):
    """Keeps the names of each export; the first `num_failing` fail."""

    def __init__(self, num_failing: int = 0) -> None:
        self.found: list[list[str]] = []
        self.num_failing = num_failing
        self.is_shut = False
        self.exported = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.num_failing:
            self.num_failing -= 1
            raise OSError("away")
        self.found.append([span.span.name if isinstance(span, EndedSpan) else span.name for span in spans])
        self.exported.set()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.is_shut = True

    @property
    def names(self) -> list[str]:
        return [name for names in self.found for name in names]


def ended(name: str) -> EndedSpan:
    return EndedSpan(begin_span(name, SpanKind.CLIENT, dict), {}, None, 1)


def fill(queue: SpanQueue, number: int) -> list[str]:
    names = [f"s{n}" for n in range(number)]
    for name in names:
        queue.put(ended(name))
    return names


@pytest.fixture
def _nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_queue, "EXPORT_SPANS", 10)
    monkeypatch.setattr(span_queue, "EXPORT_INTERVAL_S", 60.0)


@pytest.mark.usefixtures("_nobody_looks")
@pytest.mark.parametrize(("num_failing", "waiting_max", "num_lost"), [(0, 99, 0), (1, 99, 10), (0, 20, 5)])
def test_all_are_exported_in_order_some_at_a_time(
    monkeypatch: pytest.MonkeyPatch, num_failing: int, waiting_max: int, num_lost: int
) -> None:
    """But those of an export that fails, and of too many the oldest."""
    monkeypatch.setattr(span_queue, "WAITING_MAX", waiting_max)
    exports = Exports(num_failing)
    queue = SpanQueue(exports)
    names = fill(queue, 25)
    queue.shutdown()
    assert exports.names == names[num_lost:] and exports.is_shut
    assert {len(found) for found in exports.found} <= {10, 5}


class Line(NotedLine, frozen=True):
    """Has spans of these names; without a name none can be made."""

    names: list[str]
    body: bytes = b""

    def spans(self) -> list[EndedSpan]:
        if not self.names:
            raise ValueError("not hexadecimal")
        makers.add(threading.current_thread().name)
        return [ended(name) for name in self.names]


makers = set[str]()


@pytest.mark.usefixtures("_nobody_looks")
def test_spans_of_lines_are_made_when_they_are_exported() -> None:
    """A line may have several, and one whose spans cannot be made is not in the way of others."""
    exports = Exports()
    makers.clear()
    queue = SpanQueue(exports)
    queue.put_lines([Line([f"a{n}" for n in range(12)]), Line([]), Line(["b"])])
    queue.put(ended("c"))
    assert not makers
    queue.shutdown()
    assert exports.names == [*(f"a{n}" for n in range(12)), "b", "c"]
    assert max(len(found) for found in exports.found) <= 10
    assert makers == {"spans"}


@pytest.mark.usefixtures("_nobody_looks")
def test_exporter_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_queue, "SHUTDOWN_TIMEOUT_S", 0.05)
    over = threading.Event()

    class Hanging(Exports):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            assert over.wait(30), "nobody shut it"
            return super().export(spans)

        def shutdown(self) -> None:
            assert not self.found
            over.set()

    queue = SpanQueue(Hanging())
    fill(queue, 1)
    queue.shutdown()
    assert over.is_set()


@pytest.mark.usefixtures("_nobody_looks")
def test_what_comes_during_the_last_export_is_exported_too() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Exports):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            begun.set()
            assert go_on.wait(30)
            return super().export(spans)

    exports = Slow()
    queue = SpanQueue(exports)
    queue.put_lines([Line(["first"], b"x" * EXPORT_BYTES)])
    assert begun.wait(30)
    queue.put_lines([Line(["meanwhile"])])
    queue.put(ended("and this"))
    threading.Timer(0.2, go_on.set).start()
    queue.shutdown()
    assert exports.names == ["first", "meanwhile", "and this"]


def test_few_wait_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_queue, "EXPORT_INTERVAL_S", 1.5)
    exports = Exports()
    queue = SpanQueue(exports)
    fill(queue, 9)
    assert not exports.exported.wait(0.1)
    assert exports.exported.wait(30) and len(exports.found) == 1
    fill(queue, 3)
    assert queue.force_flush() and len(exports.names) == 12
    queue.shutdown()


@pytest.mark.usefixtures("_nobody_looks")
def test_lines_that_take_much_room_do_not_wait() -> None:
    exports = Exports()
    queue = SpanQueue(exports)
    queue.put_lines([Line(["small"], b"x")])
    assert not exports.exported.wait(0.1)
    queue.put_lines([Line(["large"], b"x" * EXPORT_BYTES)])
    assert exports.exported.wait(30) and exports.names == ["small", "large"]
    queue.shutdown()


@pytest.mark.parametrize(("flags", "number"), [(TraceFlags.SAMPLED, 1), (TraceFlags.DEFAULT, 0)])
def test_of_the_clients_spans_those_that_are_sampled_are_exported(flags: int, number: int) -> None:
    exports = Exports()
    queue = SpanQueue(exports)
    context = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(flags))
    queue.on_end(ReadableSpan("GET /", context))
    queue.shutdown()
    assert exports.names == ["GET /"] * number
