"""What does the tracing client do with spans that libraries and we start? Which roots it keeps; limits; the process."""

import os
import socket
from importlib.metadata import version
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import SpanKind

from shared.trace_context import keeps_root

# Links of a span: as many as a poll has records. The client's own limit would drop the rest without a word.
LINKS_MAX = 1_000


def make_tracer_provider(service: str, ratio: float) -> TracerProvider:
    """Without an exporter yet; `ratio` = the share of traces that only watch."""
    return TracerProvider(
        sampler=ParentBased(_Roots(ratio)),
        resource=process_resource(service),
        span_limits=SpanLimits(max_links=LINKS_MAX),
    )


def process_resource(service: str) -> Resource:
    """Who tells: the service, and this process of it."""
    return _HashedResource(
        Resource.create(
            {
                "service.name": f"headrace-{service}",
                "service.version": version("headrace"),
                "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
            }
        )
    )


class _Roots(Sampler):
    """Decides about spans without a parent."""

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Any = None,
        trace_state: Any = None,  # noqa: ARG002 - the interface names it
    ) -> SamplingResult:
        decides = ALWAYS_ON if keeps_root(name, kind, trace_id, attributes or {}, self._ratio) else ALWAYS_OFF
        return decides.should_sample(parent_context, trace_id, name, kind, attributes, links)

    def get_description(self) -> str:
        return "HeadraceRoots"


class _HashedResource(Resource):
    """The exporter hashes the resource of every span, for which the client's own writes it as JSON each time."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource.attributes, resource.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash
