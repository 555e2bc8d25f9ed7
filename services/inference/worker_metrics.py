"""What does a worker count? SHELL: finished lines by the group, because one costs as much as many, and some gauges."""

import time
from collections import defaultdict
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

# Topic, class, URL, whether it succeeded, code of its error.
_Kind = tuple[str, str, str, bool, str | None]


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
        alike: defaultdict[_Kind, list[Done]] = defaultdict(list)
        for each in done:
            job, completion = each.job, each.completion
            kind = (job.tp.topic, job.headers.request_class, job.url, completion.succeeded, completion.error_code)
            alike[kind].append(each)
        for (topic, request_class, url, succeeded, code), members in alike.items():
            line = {"model": self._model, "class": request_class}
            error = self._bounded(code or "")
            outcome = "completed" if succeeded else "failed"
            self._lines.add(len(members), line | {"outcome": outcome, "error_type": error})
            self._count_tokens(members, self._generation(url))
            if not self._duration.is_read:
                continue
            inside = [each for each in members if each.entered_at > 0]  # the engine had them
            self._wait.record_all([each.entered_at - each.job.sent_at for each in inside], line)
            self._time(inside, topic, self._generation(url), error)

    def _count_tokens(self, done: Sequence[Done], labels: dict[str, str]) -> None:
        usages = [each.completion.usage for each in done]
        num_input, num_output = sum(u.input_tokens for u in usages), sum(u.output_tokens for u in usages)
        self.input_tokens += num_input
        self.output_tokens += num_output
        self._input.add(num_input, labels)
        self._cached.add(sum(u.cached_tokens for u in usages), labels)
        self._output.add(num_output, labels)

    def _time(self, done: Sequence[Done], topic: str, labels: dict[str, str], error: str) -> None:
        now = time.time()
        processed = [now - each.job.fetched_at for each in done]
        self._process.record_all(processed, messaging_labels("process", topic))
        self._duration.record_all([each.left_at - each.entered_at for each in done], labels | {"error_type": error})
        timed = [(each.times, each.completion.usage.output_tokens - 1) for each in done if each.times is not None]
        self._first.record_all([(times.queued_ms + times.prefill_ms) / 1000 for times, _ in timed], labels)
        of_others = [times.decode_ms / 1000 / num_others for times, num_others in timed if num_others > 0]
        self._others.record_all(of_others, labels)

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
