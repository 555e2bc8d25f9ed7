"""How are the spans of generations told? SHELL: for many lines one after the other, when their answers are sent.

A line that is traced comes between a hundred that are not, and what is done for it alone finds everything out of the
processor's caches. So the engine's loop only notes what is to be told, which lives no longer than the line itself.
"""

from services.inference.generation_span import error_of, of_request, of_result
from services.inference.job import Job, TracedTry
from shared.openai_batch import operation_of
from shared.telemetry import Telemetry


def tell_tries(telemetry: Telemetry, job: Job, tries: tuple[TracedTry, ...], *, provider: str, model: str) -> None:
    """End the span of each try."""
    asked = of_request(job.body, operation_of(job.url), provider, model)
    for each in tries:
        attributes = asked | of_result(each.result)
        telemetry.end(each.span, attributes, error=error_of(each.result), ended_ns=each.ended_ns)
