"""What does a worker count? SHELL: finished lines by the group, because one costs as much as many, and some gauges."""

import itertools
from collections import Counter
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
    INPUT_TOKENS,
    LINE_QUEUE_WAIT,
    LINES_FINISHED,
    LINES_IN_FLIGHT,
    OUTPUT_TOKENS,
    SERVER_DURATION,
    UNCOMMITTED,
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
        telemetry.gauge(LINES_IN_FLIGHT, lambda: {(model,): in_flight.total})
        telemetry.gauge(ENGINE_LINES, lambda: {(model,): room.num_inside})
        telemetry.gauge(ENGINE_WINDOW, lambda: {(model,): room.window})
        telemetry.gauge(UNCOMMITTED, lambda: {(name,): each.num_uncommitted for name, each in assigned.items()})

    def count(self, done: Sequence[Done]) -> None:
        """Count lines whose completions are published."""
        outcomes: Counter[tuple[str, bool, str]] = Counter()
        tokens, model = [0, 0, 0], {"gen_ai_request_model": self._model}
        for each in done:
            completion, headers = each.completion, each.job.headers
            outcomes[headers.request_class, completion.succeeded, completion.error_code or ""] += 1
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
        self.input_tokens += tokens[0]
        self.output_tokens += tokens[2]
        for counter, number in zip((self._input, self._cached, self._output), tokens, strict=True):
            counter.add(number, model)

    def _time(self, done: Done) -> None:
        job = done.job
        wait_s = max(0.0, done.entered_at - job.sent_at)
        self._wait.record(wait_s, {"model": self._model, "class": job.headers.request_class})
        labels = {
            "gen_ai_operation_name": operation_of(job.url),
            "gen_ai_request_model": self._model,
            "gen_ai_provider_name": self._engine,
            "error_type": self._bounded(done.completion.error_code or ""),
        }
        self._duration.record(done.left_at - done.entered_at, labels)

    def _bounded(self, code: str) -> str:
        """An error's code as a label: engines may write what they like into theirs, and a series is for ever."""
        if code in self._codes or len(self._codes) < CODES_MAX:
            self._codes.add(code)
            return code
        return OTHER


def _was_inside(done: Done) -> bool:
    """Whether the engine had it."""
    return done.entered_at > 0
