"""Which models have workers? SHELL: the settings name some, and live workers name theirs."""

import time

from services.ingest.read_model import ReadModel


class ModelPools:
    """Models that lines can be sent to."""

    def __init__(self, models: tuple[str, ...], view: ReadModel, worker_silence_s: float) -> None:
        self._configured = dict.fromkeys(models)
        self._view = view
        self._silence_s = worker_silence_s

    def serves(self, model: str) -> bool:
        """Whether some pool of workers serves the model, alive or just away."""
        return model in self._configured or model in self._alive()

    def names(self) -> tuple[str, ...]:
        """All of them, those of the settings first."""
        return tuple(self._configured | dict.fromkeys(sorted(self._alive())))

    def _alive(self) -> set[str]:
        return self._view.models_alive(int(time.time() * 1000), self._silence_s)
