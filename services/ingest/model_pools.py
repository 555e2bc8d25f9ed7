"""Which models have workers? SHELL: the settings name some, and live workers name theirs."""

import time

from services.ingest.read_model import ReadModel


class ModelPools:
    """Models that lines can be sent to."""

    def __init__(self, models: tuple[str, ...], view: ReadModel, worker_silence_s: float) -> None:
        self._configured = dict.fromkeys(models)
        self._view = view
        self._silence_s = worker_silence_s

    def pool_of(self, model: str) -> str | None:
        """The model whose workers serve this one, alive or just away: itself, or the one that it adapts."""
        return model if model in self._configured else self._alive().get(model)

    def names(self) -> tuple[str, ...]:
        """All of them, those of the settings first."""
        return tuple(self._configured | dict.fromkeys(sorted(self._alive())))

    def _alive(self) -> dict[str, str]:
        return self._view.models_alive(int(time.time() * 1000), self._silence_s)
