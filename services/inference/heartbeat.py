"""What does a worker say of itself? Its identity and state as a record on `workers`."""

from dataclasses import dataclass
from importlib.metadata import version

from services.inference.engine import EngineLoad
from shared.messages import WorkerHeartbeat, encode
from shared.publisher import OutgoingRecord
from shared.topics import Topics

VERSION = version("headrace")


@dataclass(frozen=True, slots=True)
class WorkerIdentity:
    """Who this worker is, as its heartbeats say."""

    worker_id: str
    model: str
    engine: str
    endpoints: tuple[str, ...]
    started_at: int


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """What it does now: lines held, lines in the engine at most, partitions of the request topic."""

    num_in_flight: int
    window: int
    partitions: tuple[int, ...]
    adapters: tuple[str, ...] = ()
    lines_per_second: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    engine: EngineLoad | None = None


def heartbeat(topics: Topics, who: WorkerIdentity, state: str, load: WorkerLoad, now_ms: int) -> OutgoingRecord:
    """The record for `joining`, `ready` or `stopped`."""
    beat = WorkerHeartbeat(
        worker_id=who.worker_id,
        models=(who.model, *load.adapters),
        endpoints=who.endpoints,
        engine=who.engine,
        state=state,
        in_flight=load.num_in_flight,
        window=load.window,
        partitions=load.partitions,
        started_at=who.started_at,
        sent_at_ms=now_ms,
        version=VERSION,
        lines_per_second=None if load.lines_per_second is None else round(load.lines_per_second, 2),
        input_tokens=load.input_tokens,
        output_tokens=load.output_tokens,
        running=load.engine.running if load.engine else None,
        waiting=load.engine.waiting if load.engine else None,
        kv_cache_usage=load.engine.kv_cache_usage if load.engine else None,
    )
    return OutgoingRecord(topics.workers.name, encode(beat), 0, who.worker_id.encode())
