"""The same scenario under every generation of the Python SDK, and one under Node's."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import skip_unexercised
from tests.e2e.stack import Stack

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NODE_MODULES = HERE / "node" / "node_modules"


def outcome(command: list[str]) -> dict[str, object]:
    """The line of JSON that a scenario ends with."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_python_sdk(open_stack: Stack, generation: int) -> None:
    python = Path(sys.executable) if generation == 3 else ROOT / f".venv-openai-{generation}" / "bin" / "python"
    if not python.is_file():
        skip_unexercised(f"openai {generation}.x", f"no environment: make .venv-openai-{generation}/.ready")

    found = outcome([str(python), str(HERE / "sdk_scenario.py"), open_stack.url])

    assert str(found["openai"]).startswith(f"{generation}.")


def test_node_sdk(open_stack: Stack, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None or not NODE_MODULES.is_dir():
        skip_unexercised("the Node SDK", "Node and npm, then make tests/contract/node/node_modules/.package-lock.json")

    found = outcome([str(node), str(HERE / "node" / "scenario.mjs"), open_stack.url, str(tmp_path)])

    assert found["lines"] == 40
