"""Route of one line of a batch: where it is, and where its time went."""

from typing import Any

from fastapi import APIRouter, Depends, Request

from services.ingest.api.errors import ApiError, not_found_batch
from services.ingest.api.gate import Gate, tenant_of
from services.ingest.line_story import LineStories, NoSuchLine
from services.ingest.lookup import Lookup
from shared.errors import ObjectNotFound

LINE_NOT_FOUND_CODE = "line_not_found"


class LinesApi:
    """Lines of a batch, by their custom_id."""

    def __init__(self, *, lookup: Lookup, stories: LineStories, gate: Gate) -> None:
        self._lookup = lookup
        self._stories = stories
        self._gate = gate

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(dependencies=[Depends(self._gate)], tags=["batches"])
        router.add_api_route("/batches/{batch_id}/lines/{custom_id:path}", self.retrieve, methods=["GET"])
        return router

    async def retrieve(self, request: Request, batch_id: str, custom_id: str) -> dict[str, Any]:
        """The story of one line."""
        view = await self._lookup.batch(tenant_of(request), batch_id)
        if view is None:
            raise not_found_batch(batch_id)
        try:
            return await self._stories.tell(view, custom_id)
        except NoSuchLine as reason:
            raise ApiError(404, str(reason), param="custom_id", code=LINE_NOT_FOUND_CODE) from None
        except ObjectNotFound:
            text = f"The input file of the batch '{batch_id}' was deleted, which says what line that is."
            raise ApiError(404, text, param="custom_id", code=LINE_NOT_FOUND_CODE) from None
