"""Adapters are those in the allowed folder, loaded once, when first asked for."""

import asyncio
from pathlib import Path

import pytest

from services.inference.lora import LoraAdapters
from shared.errors import SetupError


class Loads:
    """Notes what was loaded; refuses `bad`."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, name: str, path: str) -> str | None:
        await asyncio.sleep(0)
        self.paths.append(path)
        return "broken" if name == "bad" else None


def put(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "adapter_config.json").write_text("{}")


async def test_adapter_is_loaded_once_and_one_that_cannot_be_says_so_each_time(tmp_path: Path) -> None:
    put(tmp_path, "sql")
    put(tmp_path, "bad")
    (tmp_path / "notes").mkdir()
    adapters, load = LoraAdapters(tmp_path), Loads()
    assert adapters.names() == ("bad", "sql")

    found = await asyncio.gather(*(adapters.make_ready("sql", load) for _ in range(5)))

    assert (set(found), load.paths) == ({None}, [str(tmp_path / "sql")])
    assert [await adapters.make_ready("bad", load) for _ in range(2)] == ["broken", "broken"]


@pytest.mark.parametrize("name", ["base", "notes", "../sql", "/etc", "", ".", "a/../sql"])
async def test_nothing_outside_the_folder_is_ever_loaded(tmp_path: Path, name: str) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "notes").mkdir()
    put(tmp_path, "sql")
    load = Loads()

    assert await LoraAdapters(allowed).make_ready(name, load) is None
    assert load.paths == []


async def test_adapter_that_comes_later_is_found(tmp_path: Path) -> None:
    adapters, load = LoraAdapters(tmp_path), Loads()
    assert await adapters.make_ready("late", load) is None
    put(tmp_path, "late")

    assert adapters.names() == ("late",)
    await adapters.make_ready("late", load)
    assert load.paths == [str(tmp_path / "late")]


async def test_no_folder_means_no_adapters_and_a_missing_one_is_said() -> None:
    assert LoraAdapters(None).names() == ()
    assert await LoraAdapters(None).make_ready("x", Loads()) is None
    with pytest.raises(SetupError, match="LORA_FOLDER"):
        LoraAdapters(Path("/nowhere/at/all"))
