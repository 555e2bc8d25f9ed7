"""Routes of `/schemas`: the public contract of the topics, as files of the package."""

import json
from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse

from services.ingest.api.errors import ApiError

MEDIA_TYPE = "application/schema+json"


def read_schemas() -> dict[str, Any]:
    """All schemas by file name."""
    folder = files("shared") / "schemas"
    return {entry.name: json.loads(entry.read_text()) for entry in folder.iterdir() if entry.name.endswith(".json")}


class SchemasApi:
    """What a producer or reader of the topics may look up; open to everybody."""

    def __init__(self) -> None:
        self._schemas = read_schemas()

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(tags=["schemas"])
        router.add_api_route("/schemas", self.list, methods=["GET"])
        router.add_api_route("/schemas/{name}", self.retrieve, methods=["GET"], response_class=JSONResponse)
        return router

    async def list(self) -> dict[str, Any]:
        """Their names."""
        return {"object": "list", "data": [{"id": name, "object": "schema"} for name in sorted(self._schemas)]}

    async def retrieve(self, name: str) -> JSONResponse:
        """One of them."""
        if name not in self._schemas:
            raise ApiError(404, f"No schema is named '{name}'", param="name", code="schema_not_found")
        return JSONResponse(self._schemas[name], media_type=MEDIA_TYPE)
