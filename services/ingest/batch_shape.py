"""How does a batch look on the wire? SHELL: OpenAI's object, and beside it `x_headrace` with what the view knows."""

from typing import Any

from services.ingest.batch_extension import extension
from services.ingest.read_model import ReadModel
from shared.batch_state import BatchView, batch_object
from shared.settings import ContractSettings


class BatchShape:
    """Makes batch objects as the settings want them."""

    def __init__(self, view: ReadModel, contract: ContractSettings) -> None:
        self._view = view
        self._counts_sum = contract.counts == "sum"

    def batch_object(self, view: BatchView, now_s: int) -> dict[str, Any]:
        """OpenAI's keys in OpenAI's order, then ours."""
        value = batch_object(view, counts_sum=self._counts_sum)
        value["x_headrace"] = extension(view, self._view.backlog.position(view), now_s)
        return value
