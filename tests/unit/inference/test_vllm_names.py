"""What the adapter calls is there in the lowest and in the highest version of vLLM that is allowed.

The lowest is the one that the tests run; of the highest the package is looked into, because its engine needs a GPU.
"""

import ast
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.up import cache_folder, inference_python
from services.inference.vllm_load import METRICS
from services.inference.vllm_names import (
    CHAT_HANDLER,
    COMPLETION_HANDLER,
    EMBEDDING_HANDLER,
    ENGINE_MEMBERS,
    MODELS_HANDLER,
    PLACES,
)
from shared.errors import SetupError
from tests.conftest import skip_unexercised

# The text of a file of the package, or None.
Source = Callable[[str], str | None]


def installed() -> Source:
    try:
        python = inference_python()
    except SetupError as error:
        skip_unexercised("vLLM", str(error))
        raise
    (site,) = Path(python).parents[1].glob("lib/python*/site-packages")

    def read(name: str) -> str | None:
        return (site / name).read_text() if (site / name).is_file() else None

    return read


def highest() -> Source:
    wheels = sorted(cache_folder().glob("vllm-highest-*/vllm-*.whl"))
    if not wheels:
        skip_unexercised("the highest vLLM", "its package is not in the cache (make test fetches it)")
    archive = zipfile.ZipFile(wheels[-1])
    names = set(archive.namelist())

    def read(name: str) -> str | None:
        return archive.read(name).decode() if name in names else None

    return read


@pytest.fixture(params=[installed, highest], scope="module")
def source(request: pytest.FixtureRequest) -> Source:
    found: Source = request.param()
    return found


def defines(text: str, name: str) -> bool:
    """Whether a module defines the name, or imports it from elsewhere in the package."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return True
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return True
    return False


@pytest.mark.parametrize("name", PLACES)
def test_name_is_in_one_of_its_places(source: Source, name: str) -> None:
    files = [f"{place.replace('.', '/')}{end}" for place in PLACES[name] for end in (".py", "/__init__.py")]

    assert any(defines(text, name) for file in files if (text := source(file)) is not None)


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("vllm/v1/engine/async_llm.py", ENGINE_MEMBERS),
        ("vllm/entrypoints/generate/api_router.py", [f"state.{CHAT_HANDLER}", f"state.{COMPLETION_HANDLER}"]),
        ("vllm/entrypoints/pooling/factories.py", [f"state.{EMBEDDING_HANDLER}"]),
        ("vllm/entrypoints/launchers/api_server/app_state.py", [f"state.{MODELS_HANDLER}"]),
        ("vllm/v1/metrics/loggers.py", [name.removesuffix("_total") for name in METRICS]),
        ("vllm/v1/engine/core_client.py", ("engine_manager", "resources")),
    ],
)
def test_members_and_metrics_are_spoken_of_where_vllm_makes_them(source: Source, file: str, names: list[str]) -> None:
    text = source(file) or ""

    assert [name for name in names if name not in text] == []
