"""Routes of `/models`: what batches may name."""

import time
from typing import Any

from fastapi import APIRouter, Depends

from services.ingest.api.errors import ApiError
from services.ingest.api.gate import Gate
from services.ingest.model_pools import ModelPools


class ModelsApi:
    """Models of the pools, and those that live workers offer."""

    def __init__(self, *, pools: ModelPools, gate: Gate) -> None:
        self._pools = pools
        self._gate = gate
        self._created_at = int(time.time())

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(dependencies=[Depends(self._gate)], tags=["models"])
        router.add_api_route("/models", self.list, methods=["GET"])
        router.add_api_route("/models/{model:path}", self.retrieve, methods=["GET"])
        return router

    async def list(self) -> dict[str, Any]:
        """All of them."""
        return {"object": "list", "data": [self._object(name) for name in self._pools.names()]}

    async def retrieve(self, model: str) -> dict[str, Any]:
        """One of them."""
        if model not in self._pools.names():
            raise ApiError(404, f"The model '{model}' does not exist", param="model", code="model_not_found")
        return self._object(model)

    def _object(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created_at, "owned_by": "headrace"}
