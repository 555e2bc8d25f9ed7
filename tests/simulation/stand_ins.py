"""What stands in for the view, the ownership and the engine of a process."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.inference.engine import Answer, EngineRequest, EngineResult
from shared.batch_state import BatchView, apply_facet
from shared.messages import Facet, decode_facet
from tests.simulation.invariants import BATCHES
from tests.simulation.process import Killed, Process

if TYPE_CHECKING:
    from tests.simulation.world import World

MODEL = "m"


@dataclass
class Follow:
    """What ViewFeed and ReadModel show to the dispatcher, folded from the simulated log."""

    world: "World"
    process: Process
    caught_up: bool = True
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    position: int = 0
    views: dict[str, BatchView] = field(default_factory=dict)
    early: dict[str, list[tuple[str, Facet]]] = field(default_factory=dict)

    def open_batches(self) -> list[BatchView]:
        """As ReadModel."""
        return [view for view in self.views.values() if not view.is_terminal]

    def open_batch(self, batch_id: str) -> BatchView | None:
        """As ReadModel."""
        view = self.views.get(batch_id)
        return view if view is not None and not view.is_terminal else None

    def take_touched(self) -> list[str]:
        """As ReadModel; the log is read before every look."""
        touched: dict[str, None] = {}
        for record in self.world.log.read(BATCHES, self.position, 10_000):
            self.position = record.offset + 1
            batch_id, _, name = (record.key or b"").decode().partition("/")
            facet = decode_facet(record.value or b"")
            view = apply_facet(self.views.get(batch_id), name, facet)
            if view is None:
                self.early.setdefault(batch_id, []).append((name, facet))
                continue
            for early_name, early in self.early.pop(batch_id, []):
                view = apply_facet(view, early_name, early) or view
            self.views[batch_id] = view
            touched[batch_id] = None
        return list(touched)

    def file(self, _file_id: str) -> None:
        """As ReadModel, which has not heard of it."""

    def models_alive(self, *_: Any) -> set[str]:
        """As ReadModel."""
        return {MODEL}

    def workers_alive(self, *_: Any) -> list[Any]:
        """As ReadModel, before the first heartbeat came."""
        return []

    async def wait_for(self, _written: Any) -> None:
        """As ViewFeed."""
        await self.process.operate(lambda: None)


class Files:
    """The port of FileKeeper: a file is there when its bytes are."""

    def describe(self, file_id: str, **_: Any) -> str:
        """As FileKeeper."""
        return file_id

    async def add(self, _file: str) -> None:
        """As FileKeeper."""


class Owner:
    """The port of Ownership: now and then two own the same."""

    def __init__(self, world: "World", process: Process) -> None:
        self._world, self._process = world, process

    def owns(self, _batch_id: str) -> bool:
        """Whether this process may dispatch."""
        return self._world.owner is self._process or self._world.rng.random() < 0.02


class SimulatedEngine:
    """Answers with the line's own text after a moment; a poison ends the process."""

    name = "simulated"
    endpoints: tuple[str, ...] = ("/v1/completions",)
    num_slots = 4

    def __init__(self, world: "World", process: Process) -> None:
        self._world, self._process = world, process

    async def answer(self, request: EngineRequest) -> EngineResult:
        self._world.num_inferences += 1
        await asyncio.sleep(self._world.rng.choice([0.0, 0.1, 0.1, 2.0]))
        if self._process.is_dead:
            raise Killed
        if b"POISON" in request.body:
            self._process.kill()
            raise Killed
        text = json.loads(request.body)["prompt"]
        status = 400 if text.endswith("7") else 200
        body = {"text": text, "n": self._world.num_inferences, "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
        return Answer(status, json.dumps(body).encode())

    async def cancel(self, _request: EngineRequest) -> None:
        pass

    async def probe(self) -> None:
        pass

    def adapters(self) -> tuple[str, ...]:
        return ()

    def load(self) -> None:
        pass

    def failure(self) -> str | None:
        return None

    async def start(self) -> None:
        pass

    async def close(self, _timeout_s: float) -> None:
        pass
