"""What does a worker count? SHELL: finished lines by the group, because one costs as much as many, and some gauges."""

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from services.inference.assigned_log import AssignedLog
from services.inference.engine_room import EngineRoom
from services.inference.in_flight import InFlight
from services.inference.job import Done
from shared.error_codes import CODES_MAX, OTHER
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
        outcomes: Counter[tuple[str, bool, str]] = Counter()
        by_url: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for each in done:
            completion, headers = each.completion, each.job.headers
            outcomes[headers.request_class, completion.succeeded, completion.error_code or ""] += 1
            tokens = by_url[each.job.url]
            tokens[0] += completion.usage.input_tokens
            tokens[1] += completion.usage.cached_tokens
            tokens[2] += completion.usage.output_tokens
        for each in itertools.islice(filter(_was_inside, done), self._duration.num_wanted()):
            self._time(each)
        for (request_class, succeeded, code), number in outcomes.items():
            labels = {
                "model": self._model,
                "class": request_class,
                "outcome": "completed" if succeeded else "failed",
                "error_type": self._bounded(code),
            }
            self._lines.add(number, labels)
        for url, tokens in by_url.items():
            self.input_tokens += tokens[0]
            self.output_tokens += tokens[2]
            for counter, number in zip((self._input, self._cached, self._output), tokens, strict=True):
                counter.add(number, self._generation(url))

    def _time(self, done: Done) -> None:
        job = done.job
        wait_s = max(0.0, done.entered_at - job.sent_at)
        self._wait.record(wait_s, {"model": self._model, "class": job.headers.request_class})
        self._process.record(max(0.0, time.time() - job.fetched_at), messaging_labels("process", job.tp.topic))
        labels = self._generation(job.url)
        error = {"error_type": self._bounded(done.completion.error_code or "")}
        self._duration.record(done.left_at - done.entered_at, labels | error)
        if done.times is not None:
            self._first.record((done.times.queued_ms + done.times.prefill_ms) / 1000, labels)
            num_others = done.completion.usage.output_tokens - 1
            if num_others > 0:
                self._others.record(done.times.decode_ms / 1000 / num_others, labels)

    def _generation(self, url: str) -> dict[str, str]:
        return {
            "gen_ai_operation_name": operation_of(url),
            "gen_ai_request_model": self._model,
            "gen_ai_provider_name": self._engine,
        }

    def _bounded(self, code: str) -> str:
        """An error's code as a label: engines may write what they like into theirs, and a series is for ever."""
        if code in self._codes or len(self._codes) < CODES_MAX:
            self._codes.add(code)
            return code
        return OTHER


def _was_inside(done: Done) -> bool:
    """Whether the engine had it."""
    return done.entered_at > 0
