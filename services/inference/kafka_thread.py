"""Where does the Kafka client run? SHELL: on a thread and loop of its own, so that no engine call stops heartbeats."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from shared.lifecycle import run_on_loop


class KafkaThread:
    """An event loop on a thread; ends with the coroutine that it was given."""

    def __init__(self, main: Coroutine[Any, Any, None]) -> None:
        self._main = main
        self.error: BaseException | None = None
        self.ended = asyncio.Event()
        self._home = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="kafka", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            run_on_loop(self._main)
        except BaseException as error:  # noqa: BLE001 - carried to the main thread, which raises it
            self.error = error
        self._home.call_soon_threadsafe(self.ended.set)
