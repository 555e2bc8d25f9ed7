"""What does a worker count? SHELL: finished lines by the group, because one costs as much as many, and some gauges."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from services.inference.assigned_log import AssignedLog
from services.inference.engine_room import EngineRoom
from services.inference.in_flight import InFlight
from services.inference.job import Done
from shared.error_codes import CODES_MAX, OTHER
from shared.instruments import Buckets, Total
from shared.metric_names import (
    CACHED_TOKENS,
    ENGINE_LINES,
    ENGINE_WINDOW,
    FIRST_TOKEN,
    INPUT_TOKENS,
    LINE_QUEUE_WAIT,
    LINES_FINISHED,
    LINES_IN_FLIGHT,
    OTHER_TOKENS,
    OUTPUT_TOKENS,
    PROCESS_DURATION,
    SERVER_DURATION,
    UNCOMMITTED,
    messaging_labels,
)
from shared.openai_batch import operation_of
from shared.telemetry import Telemetry

# Topic, class, URL, whether it succeeded, code of its error.
_Kind = tuple[str, str, str, bool, str | None]


class _Series(NamedTuple):
    """Where lines of a kind are counted: looked up once, because labels cost more than what is counted under them."""

    lines: Total
    input: Total
    cached: Total
    output: Total
    wait: Buckets
    process: Buckets
    duration: Buckets
    first: Buckets
    others: Buckets


class WorkerMetrics:
    """The instruments of a worker."""

    def __init__(
        self,
        telemetry: Telemetry,
        *,
        model: str,
        engine: str,
        room: EngineRoom,
        in_flight: InFlight,
        assigned: Mapping[str, AssignedLog],
    ) -> None:
        self._model, self._engine = model, engine
        self._codes: set[str] = set()
        # By topic, class, operation, whether it succeeded, and code: all of them are few.
        self._known: dict[tuple[str, str, str, bool, str], _Series] = {}
        self.input_tokens = self.output_tokens = 0
        self._lines = telemetry.counter(LINES_FINISHED)
        self._input, self._cached, self._output = map(telemetry.counter, (INPUT_TOKENS, CACHED_TOKENS, OUTPUT_TOKENS))
        self._wait, self._duration = telemetry.histogram(LINE_QUEUE_WAIT), telemetry.histogram(SERVER_DURATION)
        self._process = telemetry.histogram(PROCESS_DURATION)
        self._first, self._others = telemetry.histogram(FIRST_TOKEN), telemetry.histogram(OTHER_TOKENS)
        telemetry.gauge(LINES_IN_FLIGHT, lambda: {(model,): in_flight.total})
        telemetry.gauge(ENGINE_LINES, lambda: {(model,): room.num_inside})
        telemetry.gauge(ENGINE_WINDOW, lambda: {(model,): room.window})
        telemetry.gauge(UNCOMMITTED, lambda: {(name,): each.num_uncommitted for name, each in assigned.items()})

    def count(self, done: Sequence[Done]) -> None:
        """Count lines whose completions are published."""
        alike: defaultdict[_Kind, list[Done]] = defaultdict(list)
        for each in done:
            job, completion = each.job, each.completion
            kind = (job.tp.topic, job.headers.request_class, job.url, completion.succeeded, completion.error_code)
            alike[kind].append(each)
        for (topic, request_class, url, succeeded, code), members in alike.items():
            series = self._series_of(topic, request_class, operation_of(url), succeeded, self._bounded(code or ""))
            series.lines.add(len(members))
            self._count_tokens(members, series)
            if self._duration.is_read:
                self._time([each for each in members if each.entered_at > 0], series)  # the engine had them

    def _count_tokens(self, done: Sequence[Done], series: _Series) -> None:
        usages = [each.completion.usage for each in done]
        num_input, num_output = sum(u.input_tokens for u in usages), sum(u.output_tokens for u in usages)
        self.input_tokens += num_input
        self.output_tokens += num_output
        series.input.add(num_input)
        series.cached.add(sum(u.cached_tokens for u in usages))
        series.output.add(num_output)

    def _time(self, done: Sequence[Done], series: _Series) -> None:
        """One loop for all, because each of its own costs as much again."""
        now, waits, processed, durations = time.time(), list[float](), list[float](), list[float]()
        first, others = list[float](), list[float]()
        for each in done:
            job, entered_at, times = each.job, each.entered_at, each.times
            waits.append(entered_at - job.sent_at)
            processed.append(now - job.fetched_at)
            durations.append(each.left_at - entered_at)
            if times is not None:
                first.append((times.queued_ms + times.prefill_ms) / 1000)
                if (num_tokens := each.completion.usage.output_tokens) > 1:
                    others.append(times.decode_ms / 1000 / (num_tokens - 1))
        series.wait.record_all(waits)
        series.process.record_all(processed)
        series.duration.record_all(durations)
        series.first.record_all(first)
        series.others.record_all(others)

    def _series_of(self, topic: str, request_class: str, operation: str, succeeded: bool, code: str) -> _Series:
        known = self._known.get((topic, request_class, operation, succeeded, code))
        if known is None:
            known = self._new_series(topic, request_class, operation, succeeded, code)
            self._known[topic, request_class, operation, succeeded, code] = known
        return known

    def _new_series(self, topic: str, request_class: str, operation: str, succeeded: bool, code: str) -> _Series:
        line, error = {"model": self._model, "class": request_class}, {"error_type": code}
        outcome = {"outcome": "completed" if succeeded else "failed"}
        generation = {
            "gen_ai_operation_name": operation,
            "gen_ai_request_model": self._model,
            "gen_ai_provider_name": self._engine,
        }
        return _Series(
            lines=self._lines.of(line | outcome | error),
            input=self._input.of(generation),
            cached=self._cached.of(generation),
            output=self._output.of(generation),
            wait=self._wait.of(line),
            process=self._process.of(messaging_labels("process", topic)),
            duration=self._duration.of(generation | error),
            first=self._first.of(generation),
            others=self._others.of(generation),
        )

    def _bounded(self, code: str) -> str:
        """An error's code as a label: engines may write what they like into theirs, and a series is for ever."""
        if code in self._codes or len(self._codes) < CODES_MAX:
            self._codes.add(code)
            return code
        return OTHER
