"""Route of `/batches/{id}/results`: finished lines while the batch runs."""

import asyncio
import re

from fastapi import APIRouter, Depends, Request
from starlette.responses import StreamingResponse

from services.ingest.api.errors import ApiError, invalid_value, not_found_batch
from services.ingest.api.gate import Gate, tenant_of
from services.ingest.live_results import Cursor, LiveResults, SegmentsGone
from services.ingest.lookup import Lookup
from shared.identifiers import request_id

_LINE_ID = re.compile(r"batch_req_[0-9a-f]{32}")
_COUNT_DIGITS_MAX = 12


class ResultsApi:
    """The lines of a batch as they finish."""

    def __init__(self, *, lookup: Lookup, results: LiveResults, gate: Gate) -> None:
        self._lookup = lookup
        self._results = results
        self._gate = gate

    def router(self) -> APIRouter:
        """The route."""
        router = APIRouter(dependencies=[Depends(self._gate)], tags=["batches"])
        router.add_api_route("/batches/{batch_id}/results", self.stream, methods=["GET"])
        return router

    async def stream(self, request: Request, batch_id: str) -> StreamingResponse:
        """Lines after the one with the id `after` (or after so many), until the batch ends or `follow=false`."""
        view = await self._lookup.batch(tenant_of(request), batch_id)
        if view is None:
            raise not_found_batch(batch_id)
        query = request.query_params
        follow = _flag("follow", query.get("follow", "true"))
        cursor = _cursor(query.get("after", ""))
        total = view.dispatch.total if view.dispatch else 0
        if cursor.after_id is not None and not await asyncio.to_thread(_has_line, batch_id, total, cursor.after_id):
            raise ApiError(404, f"No line of this batch has the id '{cursor.after_id}'.", param="after")
        try:
            await self._results.check(view)
        except SegmentsGone as gone:
            raise ApiError(410, str(gone)) from None
        return StreamingResponse(self._results.stream(batch_id, cursor, follow=follow), media_type="application/jsonl")


def _cursor(after: str) -> Cursor:
    if not after:
        return Cursor()
    if _LINE_ID.fullmatch(after):
        return Cursor(after_id=after)
    if after.isascii() and after.isdecimal() and len(after) <= _COUNT_DIGITS_MAX:
        return Cursor(skip=int(after))
    raise invalid_value("after", after[:80], ("the id of a line", "a number of lines"))


def _flag(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise invalid_value(name, text[:80], ("true", "false"))
    return text == "true"


def _has_line(batch_id: str, total: int, line_id: str) -> bool:
    return any(request_id(batch_id, line) == line_id for line in range(total))
