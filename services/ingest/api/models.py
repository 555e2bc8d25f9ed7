"""Routes of `/models`: what batches may name."""

import time
from typing import Any

from fastapi import APIRouter

from services.ingest.api.errors import ApiError
from services.ingest.read_model import ReadModel


class ModelsApi:
    """Models of the pools, and those that live workers offer."""

    def __init__(self, *, models: tuple[str, ...], view: ReadModel, worker_silence_s: float) -> None:
        self._models = models
        self._view = view
        self._silence_s = worker_silence_s
        self._created_at = int(time.time())

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter()
        router.add_api_route("/models", self.list, methods=["GET"])
        router.add_api_route("/models/{model:path}", self.retrieve, methods=["GET"])
        return router

    async def list(self) -> dict[str, Any]:
        """All of them."""
        return {"object": "list", "data": [self._object(name) for name in self._names()]}

    async def retrieve(self, model: str) -> dict[str, Any]:
        """One of them."""
        if model not in self._names():
            raise ApiError(404, f"The model '{model}' does not exist", param="model", code="model_not_found")
        return self._object(model)

    def _names(self) -> tuple[str, ...]:
        alive = self._view.models_alive(int(time.time() * 1000), self._silence_s)
        return tuple(dict.fromkeys([*self._models, *sorted(alive)]))

    def _object(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created_at, "owned_by": "headrace"}
