"""Which LoRA adapters may a request name? SHELL: those in the allowed folder, loaded when first asked for."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from shared.errors import SetupError

_MARK = "adapter_config.json"


class LoraAdapters:
    """The adapters of one engine; `load(name, path)` returns why it cannot, or None."""

    def __init__(self, folder: Path | None) -> None:
        if folder is not None and not folder.is_dir():
            raise SetupError(f"HEADRACE_INFERENCE__LORA_FOLDER={folder}: no such folder")
        self._folder = folder
        self._loaded: set[str] = set()
        self._lock = asyncio.Lock()

    def names(self) -> tuple[str, ...]:
        """What requests may name now; an adapter that is put there later is found too."""
        if self._folder is None:
            return ()
        return tuple(sorted(path.parent.name for path in self._folder.glob(f"*/{_MARK}")))

    async def make_ready(self, name: str, load: Callable[[str, str], Awaitable[str | None]]) -> str | None:
        """Load an adapter if it is one and is not loaded; why that failed, or None."""
        if self._folder is None or name in self._loaded or name not in self.names():
            return None
        async with self._lock:
            if name in self._loaded:
                return None
            problem = await load(name, str(self._folder / name))
            if problem is None:
                self._loaded.add(name)
            return problem
