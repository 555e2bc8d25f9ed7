"""Routes of `/workers`: who works, on what, how fast, and who has gone silent."""

import time
from typing import Any

from fastapi import APIRouter, Depends

from services.ingest.api.gate import Gate
from services.ingest.read_model import ReadModel
from shared.messages import WorkerHeartbeat

# What went silent longer ago is not shown any more.
GONE_AFTER_S = 3600.0


class WorkersApi:
    """The fleet, as its heartbeats say."""

    def __init__(self, *, view: ReadModel, silence_s: float, gate: Gate) -> None:
        """`silence_s` = a worker that said nothing for so long is not alive."""
        self._view = view
        self._silence_s = silence_s
        self._gate = gate

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(dependencies=[Depends(self._gate)], tags=["workers"])
        router.add_api_route("/workers", self.list, methods=["GET"])
        return router

    async def list(self) -> dict[str, Any]:
        """All of them, by id."""
        now_ms = int(time.time() * 1000)
        beats = sorted(self._view.workers.values(), key=lambda beat: beat.worker_id)
        shown = [beat for beat in beats if now_ms - beat.sent_at_ms < GONE_AFTER_S * 1000]
        return {"object": "list", "data": [worker_object(beat, now_ms, self._silence_s) for beat in shown]}


def worker_object(beat: WorkerHeartbeat, now_ms: int, silence_s: float) -> dict[str, Any]:
    """A worker on the wire. `state` is its own word, `silent` when it has not said it lately."""
    age_s = max(0.0, (now_ms - beat.sent_at_ms) / 1000)
    is_silent = age_s >= silence_s and beat.state != "stopped"
    return {
        "id": beat.worker_id,
        "object": "worker",
        "state": "silent" if is_silent else beat.state,
        "alive": beat.state == "ready" and not is_silent,
        "models": list(beat.models),
        "endpoints": list(beat.endpoints),
        "engine": beat.engine,
        "version": beat.version,
        "started_at": beat.started_at,
        "seen_at": beat.sent_at_ms // 1000,
        "in_flight": beat.in_flight,
        "window": beat.window,
        "partitions": list(beat.partitions),
        "lines_per_second": beat.lines_per_second,
        "input_tokens": beat.input_tokens,
        "output_tokens": beat.output_tokens,
        "running": beat.running,
        "waiting": beat.waiting,
        "kv_cache_usage": beat.kv_cache_usage,
    }
