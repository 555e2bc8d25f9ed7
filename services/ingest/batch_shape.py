"""How does a batch look on the wire? SHELL: OpenAI's object, and beside it `x_headrace` with what the view knows."""

from collections.abc import Collection
from typing import Any

from services.ingest.batch_extension import extension, without_workers
from services.ingest.read_model import ReadModel
from shared.batch_state import BatchView, batch_object
from shared.settings import ContractSettings


class BatchShape:
    """Makes batch objects as the settings want them."""

    def __init__(self, view: ReadModel, contract: ContractSettings, worker_silence_s: float) -> None:
        self._view = view
        self._silence_s = worker_silence_s
        self._counts_sum = contract.counts == "sum"

    def batch_object(self, view: BatchView, now_s: int) -> dict[str, Any]:
        """OpenAI's keys in OpenAI's order, then ours."""
        value = batch_object(view, counts_sum=self._counts_sum)
        value["x_headrace"] = extension(view, self._view.backlog.position(view), now_s, self._alive(now_s))
        return value

    def warning(self, view: BatchView, now_s: int) -> str | None:
        """What is to be said about a batch that waits in silence."""
        missing = without_workers(view, self._alive(now_s))
        return f"no live worker serves {', '.join(missing)}" if missing else None

    def _alive(self, now_s: int) -> Collection[str]:
        return self._view.models_alive(now_s * 1000, self._silence_s)
